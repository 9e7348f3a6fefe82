package colour

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/kovidgoyal/imaging/prism/meta/icc"
)

// Channels are the numbers of a pixel that a profile speaks of.
type Channels int

// The kinds of pixels.
const (
	Gray Channels = 1
	RGB  Channels = 3
	CMYK Channels = 4
)

// MaxProfile is the largest profile in bytes that is read. Those of presses have up to 3 MB.
const MaxProfile = 4 << 20

// MemoryOfProfile returns how many bytes FromICC allocates at most, the Transform included, for a profile of this size.
func MemoryOfProfile(size int64) int64 {
	// The engine keeps 8 bytes for each number of a table, which takes at least one in the profile, in the tables of both
	// directions, which may be the same bytes. The rest is copies of the profile, curves and garbage.
	return 32*min(size, MaxProfile) + 2*bytesOfTransform
}

// FromICC returns the Transform of an ICC profile (ICC.1:2022) for pixels of a kind. A profile of RGB is used for Gray pixels too,
// whose channels are equal then.
//
// The profile is read, and its curves, matrices and tables are evaluated, by github.com/kovidgoyal/imaging, which follows Little
// CMS. An evaluation takes microseconds, so this package tabulates it.
func FromICC(ctx context.Context, profile []byte, channels Channels) (t *Transform, err error) {
	defer func() {
		if r := recover(); r != nil { // the engine trusts numbers of the profile
			t, err = nil, fmt.Errorf("%w: %v", errICC, r)
		}
	}()
	const header, class, space = 128, 12, 16
	if len(profile) < header || len(profile) > MaxProfile {
		return nil, fmt.Errorf("colour: an ICC profile of %d bytes", len(profile))
	}
	switch name := string(profile[class : class+4]); name {
	case "link", "abst", "nmcl": // from one device to another, between colours, and of named colours
		return nil, fmt.Errorf("colour: an ICC profile of the class %q", name)
	}
	var own Channels
	switch name := string(profile[space : space+4]); name {
	case "GRAY":
		own = Gray
	case "RGB ":
		own = RGB
	case "CMYK":
		own = CMYK
	default:
		return nil, fmt.Errorf("colour: an ICC profile for %q", name)
	}
	if own != channels && (own != RGB || channels != Gray) {
		return nil, fmt.Errorf("colour: an ICC profile for %d channels in an image of %d", own, channels)
	}
	if err := validate(profile); err != nil {
		return nil, err
	}
	p, err := icc.DecodeProfile(bytes.NewReader(profile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errICC, err)
	}
	// Nothing is clamped before the last step: a table would smear the edge.
	pipelineOf := func(blackPoint bool) (*icc.Pipeline, error) {
		const clamp, mapGamut, optimize = false, false, true
		return p.CreateTransformerToSRGB(icc.RelativeColorimetricRenderingIntent, blackPoint, int(own), clamp, mapGamut, optimize)
	}
	pipeline, err := pipelineOf(true)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errICC, err)
	}
	switch {
	case own == Gray:
		t = fromGray(pipeline)
	case own == RGB && p.IsMatrixShaper() && !p.TagTable.Has(icc.AToB0TagSignature) && !p.TagTable.Has(icc.AToB1TagSignature):
		t, err = fromMatrix(pipeline)
	default:
		uncompensated, failure := pipelineOf(false)
		if failure != nil {
			return nil, fmt.Errorf("%w: %w", errICC, failure)
		}
		t, err = fromTables(ctx, pipeline, uncompensated, own)
	}
	if err != nil {
		return nil, err
	}
	if !t.finite() {
		return nil, fmt.Errorf("%w: it makes light without bounds", errICC)
	}
	if own == CMYK {
		return t, nil
	}
	return simplest(t), nil
}

// finite reports whether the numbers of a Transform are small enough to be multiplied.
func (t *Transform) finite() bool {
	switch {
	case t.gray != nil:
		return small(t.gray.linear[:])
	case t.shaper != nil:
		for c := range t.shaper.linear {
			for i := range t.shaper.linear[c] {
				if !isSmall(t.shaper.linear[c][i]) {
					return false
				}
			}
		}
		return small(t.shaper.matrix[:])
	}
	return small(t.grid.values) && small(t.grid.matrix[:]) && small([][3]float32{t.grid.offset})
}

func small(values [][3]float32) bool {
	for i := range values {
		if v := &values[i]; !isSmall(v[0]) || !isSmall(v[1]) || !isSmall(v[2]) {
			return false
		}
	}
	return true
}

// isSmall is false for what isn't a number, too.
func isSmall(v float32) bool { return v >= -1e6 && v <= 1e6 }

func fromGray(pipeline *icc.Pipeline) *Transform {
	g := new(gray)
	for i := range g.levels {
		out := evaluate(pipeline, [4]float64{float64(i) / 255})
		for c := range 3 {
			g.levels[i][c], g.linear[i][c] = level(out[c]), float32(decodeSRGB(out[c]))
		}
	}
	return &Transform{gray: g}
}

// evaluate returns the sRGB of a colour, both from 0 to 1. What the profile's table has beyond sRGB is outside.
func evaluate(pipeline *icc.Pipeline, in [4]float64) [4]float64 {
	var out [4]float64
	pipeline.TransformGeneral(out[:], in[:])
	return out
}

func level(v float64) byte { return byte(min(max(v, 0), 1)*255 + 0.5) }

// fromMatrix finds the curves and the matrix of a display by what the pipeline makes of single channels: linear light adds up.
func fromMatrix(pipeline *icc.Pipeline) (*Transform, error) {
	s := new(shaper)
	for c := range 3 {
		var channel [256]vector // linear sRGB
		for i := range channel {
			var in [4]float64
			in[c] = float64(i) / 255
			out := evaluate(pipeline, in)
			for j := range channel[i] {
				channel[i][j] = decodeSRGB(out[j]) // linear below 0, as the engine's encoding is
			}
		}
		full := channel[255]
		largest := 0 // the row that tells most
		for j := range full {
			if abs(full[j]) > abs(full[largest]) {
				largest = j
			}
			s.matrix[j][c] = float32(full[j])
		}
		if !(abs(full[largest]) > 1e-6) {
			return nil, errors.New("colour: an ICC profile without one of its primaries")
		}
		for i := range channel {
			s.linear[c][i] = float32(channel[i][largest] / full[largest])
		}
	}
	return &Transform{shaper: s}, nil
}

func abs(v float64) float64 { return max(v, -v) }

//go:embed srgb.icc
var srgbProfile []byte

// SRGB returns an ICC profile of sRGB. The caller must not change it.
func SRGB() []byte { return srgbProfile }
