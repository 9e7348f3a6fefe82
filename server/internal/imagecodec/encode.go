package imagecodec

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"

	"github.com/HugoSmits86/nativewebp"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Encode encodes an image. The caller may recycle the file, and still owns the image. Encode returns the context's cause if
// the context ends while it waits for a slot, and an error if the format cannot have the image's size.
func (c *Codec) Encode(ctx context.Context, p Image, format settings.Format) ([]byte, error) {
	release, err := c.queue.Acquire(ctx, cpu.Encoding)
	if err != nil {
		return nil, err
	}
	defer release()
	switch format {
	case settings.JPEG:
		bound := torch.JPEGBound(p.Width, p.Height, p.Channels)
		if bound == 0 {
			return nil, fmt.Errorf("imagecodec: a JPEG cannot have %dx%d pixels with %d channels", p.Width, p.Height, p.Channels)
		}
		file := c.pool.get(bound)
		n, err := torch.EncodeJPEG(p.Pixels, p.Width, p.Height, p.Channels, c.config.Quality, file)
		return file[:n], err
	case settings.PNG:
		encoder := png.Encoder{CompressionLevel: png.BestSpeed}
		var file bytes.Buffer
		err := encoder.Encode(&file, p.image())
		return file.Bytes(), err
	case settings.WebP:
		var file bytes.Buffer
		err := nativewebp.Encode(&file, p.image(), nil)
		return file.Bytes(), err
	}
	return nil, fmt.Errorf("imagecodec: unknown format: %q", format)
}

// image returns the image in the form that Go's encoders take.
func (p Image) image() image.Image {
	area := image.Rect(0, 0, p.Width, p.Height)
	if p.Channels == 1 {
		return &image.Gray{Pix: p.Pixels, Stride: p.Width, Rect: area}
	}
	img := image.NewNRGBA(area)
	for from, to := p.Pixels, img.Pix; len(from) > 0; from, to = from[3:], to[4:] {
		to[0], to[1], to[2], to[3] = from[0], from[1], from[2], 255
	}
	return img
}
