package imagecodec

import (
	"context"
	"image"
	"image/color"
	"io"

	"github.com/torchherd/torchherd/torch"
)

// A sink takes the rows of a decoded image and resizes them, until its context ends.
type sink struct {
	ctx     context.Context
	resizer *torch.Resizer
	width   int    // of the rows, in pixels
	height  int    // of the image, in rows
	rows    int    // to take at a time
	buffer  []byte // for rows that are converted, of 3*width*rows bytes
}

// err returns the cause if the context has ended.
func (s *sink) err() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return nil
}

// push takes rows of pixels with 3 or 4 channels, of which the fourth is ignored.
func (s *sink) push(pixels []byte, channels int) error {
	stride := s.width * channels
	for len(pixels) > 0 {
		if err := s.err(); err != nil {
			return err
		}
		n := min(s.rows, len(pixels)/stride)
		if err := s.resizer.Push(pixels[:n*stride], n, channels); err != nil {
			return err
		}
		pixels = pixels[n*stride:]
	}
	return nil
}

// reusable returns memory for so many rows of RGB, at most s.rows.
func (s *sink) reusable(rows int) []byte {
	if s.buffer == nil {
		s.buffer = make([]byte, 3*s.width*s.rows)
	}
	return s.buffer[:3*s.width*rows]
}

// pushImage takes a whole image, whose alpha it drops. A transparent pixel keeps its colour, as in the book that the Sanic
// demo is from.
func (s *sink) pushImage(img image.Image) error {
	bounds := img.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y += s.rows {
		band := bounds
		band.Min.Y, band.Max.Y = y, min(y+s.rows, bounds.Max.Y)
		pixels, channels := s.convert(img, band)
		if err := s.push(pixels, channels); err != nil {
			return err
		}
	}
	return nil
}

// convert returns a band of an image in the form that push takes. The band has the image's width.
func (s *sink) convert(img image.Image, band image.Rectangle) (pixels []byte, channels int) {
	switch img := img.(type) {
	case *image.NRGBA:
		if img.Stride == 4*s.width {
			return img.Pix[img.PixOffset(band.Min.X, band.Min.Y):][:4*s.width*band.Dy()], 4
		}
	case *image.RGBA:
		// The decoders use this type for opaque images, where premultiplied colours equal the colours.
		if part := img.SubImage(band).(*image.RGBA); img.Stride == 4*s.width && part.Opaque() {
			return part.Pix[:4*s.width*band.Dy()], 4
		}
	}
	out := s.reusable(band.Dy())
	var palette [256][3]byte
	if img, ok := img.(*image.Paletted); ok {
		// A damaged file can use colours outside its palette; they are black.
		for i, c := range img.Palette {
			palette[i] = rgb(c)
		}
	}
	for y, row := band.Min.Y, out; y < band.Max.Y; y, row = y+1, row[3*s.width:] {
		convertRow(row[:3*s.width], img, y, &palette)
	}
	return out, 3
}

// convertRow sets out to the row y of an image, without its alpha. Of 16 bits per channel it takes the upper 8, as Pillow
// does.
func convertRow(out []byte, img image.Image, y int, palette *[256][3]byte) {
	left := img.Bounds().Min.X
	switch img := img.(type) {
	case *image.Gray:
		fromGray(out, img.Pix[img.PixOffset(left, y):], 1)
	case *image.Gray16:
		fromGray(out, img.Pix[img.PixOffset(left, y):], 2)
	case *image.Paletted:
		fromPalette(out, img.Pix[img.PixOffset(left, y):], palette)
	case *image.NRGBA64:
		highBytes(out, img.Pix[img.PixOffset(left, y):], 8, 0)
	case *image.RGBA64:
		highBytes(out, img.Pix[img.PixOffset(left, y):], 8, 0)
	default:
		for x := left; len(out) > 0; x, out = x+1, out[3:] {
			c := rgb(img.At(x, y))
			copy(out, c[:])
		}
	}
}

// rgb returns a colour without its alpha.
func rgb(c color.Color) [3]byte {
	n, ok := c.(color.NRGBA)
	if !ok {
		n = color.NRGBAModel.Convert(c).(color.NRGBA)
	}
	return [3]byte{n.R, n.G, n.B}
}

// fromGray sets the three channels to the first byte of each pixel, which has `bytes` bytes.
func fromGray(out, pixels []byte, bytes int) {
	for at := 0; len(out) >= 3; at, out = at+bytes, out[3:] {
		out[0], out[1], out[2] = pixels[at], pixels[at], pixels[at]
	}
}

// fromFour drops the fourth sample, which is the alpha.
func fromFour(out, row []byte) {
	for ; len(out) > 0; out, row = out[3:], row[4:] {
		out[0], out[1], out[2] = row[0], row[1], row[2]
	}
}

func fromPalette(out, indices []byte, palette *[256][3]byte) {
	for i := 0; len(out) >= 3; i, out = i+1, out[3:] {
		c := &palette[indices[i]]
		out[0], out[1], out[2] = c[0], c[1], c[2]
	}
}

// highBytes takes one byte of each of the first three samples of a pixel, which have 16 bits: the byte at `high`, 0 in
// big-endian samples. size: the number of bytes of a pixel.
func highBytes(out, pixels []byte, size, high int) {
	for at := high; len(out) >= 3; at, out = at+size, out[3:] {
		out[0], out[1], out[2] = pixels[at], pixels[at+2], pixels[at+4]
	}
}

// A reader reads a file from memory until the sink's context ends, in pieces that are decoded within milliseconds.
type reader struct {
	sink *sink
	data []byte
}

func (r *reader) Read(p []byte) (int, error) {
	const piece = 64 << 10
	if err := r.sink.err(); err != nil {
		return 0, err
	}
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), piece)], r.data)
	r.data = r.data[n:]
	return n, nil
}
