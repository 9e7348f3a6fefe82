// Package heif decodes HEIC images by the system's libheif, in a process for each image: the program torchherd-heif, which
// csrc/src/heif_decoder.c is the source of. A crash, a kill or a hang of it costs one image.
package heif

import (
	"context"
	"errors"
	"time"
)

// A Kind is why an image wasn't decoded.
type Kind int

// The kinds.
const (
	Broken Kind = iota + 1
	Unsupported
	TooMuch // memory or time
	Crashed // the process has ended without a reply
)

// An Error says why an image wasn't decoded.
type Error struct {
	Kind Kind
	Text string // libheif's
}

func (e *Error) Error() string { return "heif: " + e.Text }

// A Request is an image to decode.
type Request struct {
	File          []byte
	Width, Height int   // of the primary image as its boxes say, before it is turned
	Alpha         bool  // rows are RGBA, and else RGB
	Memory        int64 // bytes of data that the process may have
	// Time is of one core, in whole seconds, at least one. Ten times as much may pass on the clock.
	Time time.Duration
	// Rows is how many rows Take gets at a time; the last time it can be fewer.
	Rows int
	Take func(rows []byte) error
}

// A Decoder starts processes. It is safe for concurrent use.
type Decoder struct {
	program string
	version string // of libheif
}

// Program returns the path of torchherd-heif, which is beside libtorchherd.
func Program() (string, error) { return program() }

// New returns a Decoder that starts a program. The error says what to install.
func New(program string) (*Decoder, error) {
	version, err := check(program)
	if err != nil {
		return nil, err
	}
	return &Decoder{program, version}, nil
}

// Version returns the version of libheif.
func (d *Decoder) Version() string { return d.version }

var errNotHere = errors.New("HEIC can be decoded on Linux only, on AMD64 and ARM64")

// Decode decodes an image, and calls Take with its rows from the top. Errors: an *Error; the context's cause, soon after it has
// ended; Take's; others of the system.
func (d *Decoder) Decode(ctx context.Context, r *Request) error {
	// The clock of the processor stands still while a process waits for something that never comes.
	const waiting = 10
	limited, cancel := context.WithTimeout(ctx, waiting*r.Time)
	defer cancel()
	err := d.decode(limited, r)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case limited.Err() != nil:
		return &Error{TooMuch, "the decoder has taken too long"}
	}
	return err
}
