package settings

import (
	"errors"
	"fmt"
)

// A Fit says how an image becomes the size that the model takes.
type Fit string

// The fits.
const (
	AutoFit Fit = "auto"    // in Settings only: Pad with Size.Keep and MultipleOf, else Stretch
	Stretch Fit = "stretch" // resized, whatever its proportions
	Pad     Fit = "pad"     // resized to fit, at the top left; the rest is its reflection
	Crop    Fit = "crop"    // resized to cover; the middle is cut out
	// Letterbox resizes the image to fit, in the middle; the rest is grey.
	Letterbox Fit = "letterbox"
)

var fits = []Fit{AutoFit, Stretch, Pad, Crop, Letterbox}

// UnmarshalText reads a fit's name.
func (f *Fit) UnmarshalText(text []byte) error { return choose(f, text, fits) }

// ImageFit returns the fit, which is never AutoFit.
func (s *Settings) ImageFit() Fit {
	switch {
	case s.Fit != AutoFit:
		return s.Fit
	case s.Size.Keep() && s.MultipleOf != 0:
		return Pad
	}
	return Stretch
}

// An AnswerSize is the size of responses. The zero value leaves them as the model makes them.
type AnswerSize struct {
	Sent bool // the size of the image as it was sent, times the model's scale
	Size Size // else this one, unless it is zero
}

const (
	modelSize = "model"
	sentSize  = "sent"
)

// String returns the size in the form "model", "sent" or "640x480".
func (a AnswerSize) String() string {
	switch {
	case a.Sent:
		return sentSize
	case a.Size == Size{}:
		return modelSize
	}
	return a.Size.String()
}

// UnmarshalText reads model, sent or WIDTHxHEIGHT.
func (a *AnswerSize) UnmarshalText(text []byte) error {
	*a = AnswerSize{}
	switch string(text) {
	case modelSize:
		return nil
	case sentSize:
		a.Sent = true
		return nil
	}
	if a.Size.UnmarshalText(text) != nil || a.Size.Keep() {
		return fmt.Errorf("invalid size of responses %q: use model, sent, or WIDTHxHEIGHT, such as 640x480 (1 to %d a side)", text, MaxSide)
	}
	return nil
}

// TileStride returns the distance between the beginnings of tiles, in pixels: a multiple of MultipleOf, so that a model which
// works on a grid sees the same grid in each tile.
func (s *Settings) TileStride() int { return tileStride(s.Tile, s.Overlap, s.MultipleOf) }

func tileStride(tile, overlap, multipleOf int) int {
	of := max(1, multipleOf)
	return (tile - 2*overlap) / of * of
}

func (s *Settings) validateFit() error {
	switch fit := s.ImageFit(); {
	case s.Size.Keep() && (fit == Crop || fit == Letterbox):
		return fmt.Errorf("fit: %s needs a size, but size is keep", fit)
	case fit == Crop && s.OutputKind.NeedsSent():
		return fmt.Errorf("output-kind: %s needs the whole image: remove fit: crop", s.OutputKind)
	}
	return nil
}

func (s *Settings) validateTiles() error {
	if s.Tile == 0 {
		return nil
	}
	switch {
	case !s.Size.Keep():
		return fmt.Errorf("tile needs size: keep, but size is %v", s.Size)
	case s.ImageFit() == Stretch && s.MultipleOf != 0:
		return errors.New("tile needs fit: pad, but fit is stretch")
	case s.MultipleOf != 0 && s.Tile%s.MultipleOf != 0:
		return fmt.Errorf("tile is %d and must be a multiple of multiple-of, which is %d", s.Tile, s.MultipleOf)
	case s.MaxSide != 0 && s.MaxSide <= s.Tile:
		return fmt.Errorf("max-side is %d, so no image is larger than tile, which is %d: remove one of them", s.MaxSide, s.Tile)
	case s.OutputKind == Depth:
		return errors.New("output-kind: depth scales each image by its own values, which tiles don't have in common: remove tile")
	}
	// At most two tiles in a row are blended at a pixel: their seams lie beside each other.
	most := s.Tile / 4
	for most > 0 && tileStride(s.Tile, most, s.MultipleOf) < 2*most {
		most--
	}
	if s.Overlap > most {
		return fmt.Errorf("overlap is %d and must be at most %d for tile: %d and multiple-of: %d", s.Overlap, most, s.Tile, s.MultipleOf)
	}
	return nil
}
