package torch

// #include "torchherd.h"
import "C"

import "fmt"

// A Filter selects how an image is resized. The names and results are Pillow's.
type Filter int32

// The filters. All except Nearest are antialiased when an image shrinks.
const (
	Bilinear Filter = iota // a triangle
	Nearest                // the nearest source pixel
	Lanczos                // a windowed sinc of three lobes
	Bicubic                // with a = -0.5
	Box
	Hamming
)

var filters = [...]struct {
	name string
	c    C.thd_filter
}{
	Bilinear: {"bilinear", C.THD_BILINEAR},
	Nearest:  {"nearest", C.THD_NEAREST},
	Lanczos:  {"lanczos", C.THD_LANCZOS},
	Bicubic:  {"bicubic", C.THD_BICUBIC},
	Box:      {"box", C.THD_BOX},
	Hamming:  {"hamming", C.THD_HAMMING},
}

// Valid reports whether the filter exists.
func (f Filter) Valid() bool { return f >= 0 && int(f) < len(filters) }

// String returns the filter's name: nearest, lanczos, bilinear, bicubic, box or hamming.
func (f Filter) String() string {
	if !f.Valid() {
		return fmt.Sprintf("Filter(%d)", int32(f))
	}
	return filters[f].name
}

// NewFilter parses a filter's name. Errors: ErrInvalidArgument.
func NewFilter(name string) (Filter, error) {
	for f, known := range filters {
		if name == known.name {
			return Filter(f), nil
		}
	}
	return Bilinear, &Error{Op: "new filter", Kind: ErrInvalidArgument, Detail: fmt.Sprintf("unknown filter %q; use nearest, lanczos, bilinear, bicubic, box or hamming", name)}
}

// c returns the filter's number in C. For a filter that doesn't exist, it returns a number that C refuses.
func (f Filter) c() C.thd_filter {
	if !f.Valid() {
		return C.thd_filter(len(filters))
	}
	return filters[f].c
}
