package imagecodec

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"

	"github.com/HugoSmits86/nativewebp"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// The longest sides of a format's images, in pixels.
const (
	maxJPEGSide = 65500
	maxWebPSide = 16383
	maxAVIFSide = 65536
)

// Fits returns an *Error if a format can't hold a result of this size.
func (c *Codec) Fits(width, height int, format settings.Format) error {
	if format == settings.JPEG && c.config.Output == settings.Alpha {
		return errNoAlpha
	}
	var longest int
	var name string
	switch longer := max(width, height); {
	case format == settings.JPEG && longer > maxJPEGSide:
		longest, name = maxJPEGSide, "JPEG"
	case format == settings.WebP && longer > maxWebPSide:
		longest, name = maxWebPSide, "WebP"
	case format == settings.AVIF && longer > maxAVIFSide:
		longest, name = maxAVIFSide, "AVIF"
	case format == settings.AVIF && int64(width)*int64(height) > maxAVIFPixels:
		return &Error{TooLong, fmt.Sprintf("the result of %dx%d pixels is too large for AVIF, which is made of at most %d pixels: ask for format=png",
			width, height, maxAVIFPixels)}
	default:
		return nil
	}
	return &Error{TooLong, fmt.Sprintf("the result of %dx%d pixels is too long for %s, whose sides are at most %d pixels: ask for format=png",
		width, height, name, longest)}
}

var errNoAlpha = &Error{NoAlpha, "the result has alpha, which a JPEG can't hold: ask for format=png, webp or avif"}

// Encoding says how an image is encoded.
type Encoding struct {
	Format   settings.Format
	Quality  int // of a JPEG or AVIF, 1 to 100; 0: that of the Config
	Metadata Metadata
}

// Encode encodes an image. The caller may recycle the file, and still owns the image. Encode returns the context's cause if
// the context ends while it waits for a slot or makes an AVIF, and the error of Fits if the format can't hold the image.
func (c *Codec) Encode(ctx context.Context, p Image, how Encoding) ([]byte, error) {
	format := how.Format
	if err := c.Fits(p.Width, p.Height, format); err != nil {
		return nil, err
	}
	if p.Channels == 4 && format == settings.JPEG {
		return nil, errNoAlpha
	}
	release, err := c.queue.Acquire(ctx, cpu.Encoding)
	if err != nil {
		return nil, err
	}
	defer release()
	if c.coloured() && format != settings.PNG {
		p = c.colour(p)
		defer c.pool.put(p.Pixels)
	}
	if how.Quality == 0 {
		how.Quality = c.config.Quality
	}
	if format == settings.AVIF {
		return encodeAVIF(ctx, p, how.Quality, how.Metadata)
	}
	file, err := c.encode(p, how)
	if err != nil {
		return nil, err
	}
	if with := how.Metadata.add(file, format, p); len(with) != len(file) {
		c.pool.put(file)
		return with, nil
	}
	return file, nil
}

func (c *Codec) encode(p Image, how Encoding) ([]byte, error) {
	switch how.Format {
	case settings.JPEG:
		file := c.pool.get(max(1, torch.JPEGBound(p.Width, p.Height, p.Channels)))
		n, err := torch.EncodeJPEG(p.Pixels, p.Width, p.Height, p.Channels, how.Quality, file)
		return file[:n], err
	case settings.PNG:
		encoder := png.Encoder{CompressionLevel: png.BestSpeed}
		var file bytes.Buffer
		err := encoder.Encode(&file, c.image(p))
		return file.Bytes(), err
	case settings.WebP:
		var file bytes.Buffer
		err := nativewebp.Encode(&file, c.image(p), nil)
		return file.Bytes(), err
	}
	return nil, fmt.Errorf("imagecodec: unknown format: %q", how.Format)
}

// image returns the image in the form that Go's encoders take.
func (c *Codec) image(p Image) image.Image {
	if p.Channels == 1 && c.coloured() {
		return &image.Paletted{Pix: p.Pixels, Stride: p.Width, Rect: image.Rect(0, 0, p.Width, p.Height), Palette: c.palette()}
	}
	return p.Standard()
}

// Standard returns the image as the standard library has images. They share the pixels, unless the image is RGB.
func (p Image) Standard() image.Image {
	area := image.Rect(0, 0, p.Width, p.Height)
	switch p.Channels {
	case 1:
		return &image.Gray{Pix: p.Pixels, Stride: p.Width, Rect: area}
	case 4:
		return &image.NRGBA{Pix: p.Pixels, Stride: 4 * p.Width, Rect: area}
	}
	img := image.NewNRGBA(area)
	for from, to := p.Pixels, img.Pix; len(from) > 0; from, to = from[3:], to[4:] {
		to[0], to[1], to[2], to[3] = from[0], from[1], from[2], 255
	}
	return img
}

// coloured reports whether results are class numbers with colours.
func (c *Codec) coloured() bool { return len(c.config.Palette.Colours) > 0 }

// palette returns the colours of all class numbers. Those without one of their own are black.
func (c *Codec) palette() color.Palette {
	colours := make(color.Palette, 256)
	for i := range colours {
		rgb := c.colourOf(i)
		colours[i] = color.NRGBA{rgb[0], rgb[1], rgb[2], 255}
	}
	return colours
}

func (c *Codec) colourOf(class int) [3]uint8 {
	if class >= len(c.config.Palette.Colours) {
		return [3]uint8{}
	}
	return c.config.Palette.Colours[class]
}

// colour returns class numbers as RGB. The caller must return its pixels to the pool.
func (c *Codec) colour(p Image) Image {
	rgb := c.scratch(p.Width, p.Height, 3)
	for i, class := range p.Pixels {
		colour := c.colourOf(int(class))
		copy(rgb.Pixels[3*i:], colour[:])
	}
	return rgb
}
