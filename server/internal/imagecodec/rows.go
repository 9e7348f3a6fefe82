package imagecodec

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/torchherd/torchherd/server/internal/colour"
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
	opacity []byte // for the alpha of these rows

	// Of an image with alpha that isn't dropped one is set: the colour that it is put over, or what resizes its alpha.
	over   *[3]uint8
	alpha  *torch.Resizer
	spread []byte // for alpha
	plane  []byte // the alpha of the rows to come, of a decoder that has decoded it before them
	// collect, if set, takes the first channel of each pixel, and nothing is resized.
	collect func(channel byte)

	// How colours are converted before the resize: those of an image of more than 8 bits, or of inks, and those of RGB.
	transform  *colour.Transform
	transform8 *colour.Transform
	samples    []uint16 // of a row, for transform
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
	if s.collect != nil {
		for at := 0; at < len(pixels); at += channels {
			s.collect(pixels[at])
		}
		return s.err()
	}
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

// channelsOfSamples is the largest number of samples of a pixel that is converted before the resize: of inks.
const channelsOfSamples = 4

// row16 returns memory for the samples of a row, of so many channels.
func (s *sink) row16(channels int) []uint16 {
	if s.samples == nil {
		s.samples = make([]uint16, channelsOfSamples*s.width)
	}
	return s.samples[:channels*s.width]
}

// pushSamples takes rows of little-endian samples of 16 bits, three or four for each pixel, and converts their colours, and rows
// of alpha, if there is any.
func (s *sink) pushSamples(pixels []byte, channels int, alpha []byte) error {
	samples := s.row16(channels)
	for size := 2 * len(samples); len(pixels) > 0; {
		if err := s.err(); err != nil {
			return err
		}
		n := min(s.rows, len(pixels)/size)
		band := s.reusable(n)
		for y := range n {
			for i := range samples {
				samples[i] = binary.LittleEndian.Uint16(pixels[y*size+2*i:])
			}
			s.transform.Apply16(band[3*s.width*y:][:3*s.width], samples)
		}
		ofBand := min(len(alpha), n*s.width)
		if err := s.pushBand(band, alpha[:ofBand]); err != nil {
			return err
		}
		pixels, alpha = pixels[n*size:], alpha[ofBand:]
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

// alphaBand returns memory for the alpha of so many rows, at most s.rows, or nil if the sink doesn't want it.
func (s *sink) alphaBand(rows int) []byte {
	if !s.wantsAlpha() {
		return nil
	}
	if s.opacity == nil {
		s.opacity = make([]byte, s.width*s.rows)
	}
	return s.opacity[:s.width*rows]
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

// fromRGBA splits pixels into RGB and their alpha.
func fromRGBA(rgb, alpha, pixels []byte) {
	fromFour(rgb, pixels)
	for i := range alpha {
		alpha[i] = pixels[4*i+3]
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
