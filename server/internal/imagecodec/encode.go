package imagecodec

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"

	"github.com/HugoSmits86/nativewebp"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/torch"
)

// A Format is a format that answers can have.
type Format int

// The formats of answers.
const (
	JPEG Format = iota // baseline, 4:2:0, at the configured quality
	PNG
	WebP // lossless
)

// ContentType is the format's media type.
func (f Format) ContentType() string {
	return [...]string{JPEG: "image/jpeg", PNG: "image/png", WebP: "image/webp"}[f]
}

// Encode writes a picture as a file. The caller may give the file's memory back by Recycle; the picture stays
// the caller's. Errors: the context's cause while it waits for a worker, or a size that the format can't have.
func (c *Codec) Encode(ctx context.Context, p Image, format Format) ([]byte, error) {
	release, err := c.queue.Acquire(ctx, cpu.Encoding)
	if err != nil {
		return nil, err
	}
	defer release()
	switch format {
	case JPEG:
		bound := torch.JPEGBound(p.Width, p.Height, p.Channels)
		if bound == 0 {
			return nil, fmt.Errorf("imagecodec: no JPEG can be %dx%d with %d channels", p.Width, p.Height, p.Channels)
		}
		file := c.pool.get(bound)
		n, err := torch.EncodeJPEG(p.Pixels, p.Width, p.Height, p.Channels, c.config.Quality, file)
		return file[:n], err
	case PNG:
		encoder := png.Encoder{CompressionLevel: png.BestSpeed}
		var file bytes.Buffer
		err := encoder.Encode(&file, p.image())
		return file.Bytes(), err
	case WebP:
		var file bytes.Buffer
		err := nativewebp.Encode(&file, p.image(), nil)
		return file.Bytes(), err
	}
	return nil, fmt.Errorf("imagecodec: no such format: %d", format)
}

// image is the picture as Go's encoders take it.
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
