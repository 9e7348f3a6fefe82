package torch

// #include "torchherd.h"
import "C"

import "fmt"

// A Filter is how a picture is resized. The names and values are Pillow's.
type Filter int32

// The filters. All but Nearest are antialiased when they shrink.
const (
	Bilinear Filter = iota // a triangle
	Nearest                // the source's pixel, unfiltered
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

// Valid tells whether there is such a filter.
func (f Filter) Valid() bool { return f >= 0 && int(f) < len(filters) }

// String is the filter's name: nearest, lanczos, bilinear, bicubic, box or hamming.
func (f Filter) String() string {
	if !f.Valid() {
		return fmt.Sprintf("Filter(%d)", int32(f))
	}
	return filters[f].name
}

// NewFilter reads a filter's name. Errors: ErrInvalidArgument.
func NewFilter(name string) (Filter, error) {
	for f, known := range filters {
		if name == known.name {
			return Filter(f), nil
		}
	}
	return Bilinear, &Error{Op: "new filter", Kind: ErrInvalidArgument, Detail: fmt.Sprintf("no filter is called %q; use nearest, lanczos, bilinear, bicubic, box or hamming", name)}
}

// c is the filter as C numbers it; for one that doesn't exist a number that doesn't either.
func (f Filter) c() C.thd_filter {
	if !f.Valid() {
		return C.thd_filter(len(filters))
	}
	return filters[f].c
}
