package imagecodec

import (
	"errors"
	"fmt"
	"time"

	"github.com/torchherd/torchherd/server/internal/heif"
	"github.com/torchherd/torchherd/torch"
)

// HEIC is decoded if the Config has a decoder, which is a process with the system's libheif. Its boxes are those of AVIF, and are
// read here first: size, colours and orientation must be known before the process starts.

func heicHeader(data []byte) (header, error) {
	c, err := readContainer("HEIC", data)
	if err != nil {
		return header{}, err
	}
	switch c.kind {
	case "hvc1", "hev1", "grid":
	case "":
		return header{}, errNoPrimaryImage
	default:
		return header{}, unsupported("HEIC", fmt.Sprintf("a primary image of the type %q", c.kind))
	}
	if c.premul {
		return header{}, unsupported("HEIC", "colours multiplied by their alpha")
	}
	a := &avifFile{orientation: torch.Upright}
	if err := a.readProperties(c); err != nil {
		return header{}, err
	}
	h := header{kind: "a HEIC", width: a.width, height: a.height, orientation: a.orientation, details: a.colours.details()}
	alpha, err := c.alpha()
	if err != nil {
		return header{}, err
	}
	h.alpha = alpha != nil
	if max(h.width, h.height) > torch.MaxSide {
		return h, nil // checkPixels refuses it
	}
	const (
		process = 64 << 20 // libheif, its codecs, and their threads' stacks
		ofPixel = 16       // the planes of the whole image and of its tiles, and RGBA
	)
	pixels := int64(h.width) * int64(h.height)
	h.memory = process + ofPixel*pixels + 2*int64(len(data))
	h.budgets = 3 // as AVIF
	h.work = rowsWork(h.width, h.height) + picoseconds(pixels)*perHEVC
	return h, nil
}

// decodeHEIC has an image decoded by a process. Its time is limited by the clock of its processor: nothing in it can be counted.
func decodeHEIC(in *Input, s *sink) error {
	channels := 3
	if s.wantsAlpha() {
		channels = 4
	}
	err := in.heif.Decode(s.ctx, &heif.Request{
		File: in.data, Width: s.width, Height: s.height, Alpha: channels == 4, Rows: s.rows,
		Memory: in.header.memory, Time: time.Duration((in.limit-in.work)/nanosecond) + time.Second, // whole seconds, rounded up
		Take: func(rows []byte) error {
			if channels == 3 {
				return s.push(rows, 3)
			}
			n := len(rows) / (4 * s.width)
			band, alpha := s.reusable(n), s.alphaBand(n)
			fromRGBA(band, alpha, rows)
			return s.pushBand(band, alpha)
		},
	})
	var failure *heif.Error
	if !errors.As(err, &failure) {
		if err != nil && s.err() == nil {
			return &systemError{err}
		}
		return err
	}
	switch failure.Kind {
	case heif.Unsupported:
		return &Error{Unsupported, "this HEIC isn't supported: " + failure.Text + ": send " + advised}
	case heif.TooMuch:
		return tooMuchWork(&in.header, len(in.data))
	}
	return errors.New(failure.Text)
}
