// Package colour converts pixels to sRGB (IEC 61966-2-1) from the colour space that a file states: by an ICC profile, by the code
// points of ITU-T H.273, or by a gamma and primaries.
//
//   - The pixels have 8 bits, or 16, which are converted before anything of them is cut off.
//   - The conversion is relative colorimetric, with black-point compensation. It computes in floating point, and rounds to the
//     nearest level.
//   - A Transform is safe for concurrent use, and doesn't change. A nil Transform does nothing: it is what a colour space within
//     one level of sRGB has.
//   - A profile comes from a client, so whatever is wrong with it is an error, and making a Transform ends with its context.
package colour

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
)

// A Transform converts pixels of 8 or 16 bits to sRGB of 8 bits, in one of three ways.
type Transform struct {
	gray   *gray
	shaper *shaper
	grid   *grid
}

// A gray is the levels of sRGB for those of a gray device, and their linear light.
type gray struct {
	levels [256][3]byte
	linear [256][3]float32
}

// A shaper is a display: a curve for each channel, and the matrix from its linear light to that of sRGB.
type shaper struct {
	linear [3][256]float32
	matrix [3][3]float32
	system *ootf // of HLG, or nil
}

// bytesOfTransform is the size of the largest Transform.
const bytesOfTransform = 3 * 4 * side4 * side4 * side4 * side4

// Apply converts RGB pixels in place. Those of a gray image have three equal channels.
func (t *Transform) Apply(pixels []byte) {
	switch {
	case t == nil:
	case t.gray != nil:
		for ; len(pixels) >= 3; pixels = pixels[3:] {
			rgb := &t.gray.levels[pixels[0]]
			pixels[0], pixels[1], pixels[2] = rgb[0], rgb[1], rgb[2]
		}
	case t.shaper != nil:
		t.shaper.apply(pixels)
	default:
		t.grid.apply(pixels)
	}
}

// Apply16 sets RGB pixels of 8 bits to the colours of samples of 16 bits: three for each pixel, or four of inks, where 0 is no
// ink. The Transform must not be nil.
func (t *Transform) Apply16(out []byte, samples []uint16) {
	switch {
	case t.gray != nil:
		t.gray.apply16(out, samples)
	case t.shaper != nil:
		t.shaper.apply16(out, samples)
	default:
		t.grid.apply16(out, samples)
	}
}

// ApplyInks sets RGB pixels to the colours of inks. cmy has three bytes for each pixel, black too, of which the first counts;
// 255 is no ink, as Adobe stores CMYK. out may be cmy.
func (t *Transform) ApplyInks(out, cmy, black []byte) { t.grid.applyInks(out, cmy, black) }

func (s *shaper) apply(pixels []byte) {
	for ; len(pixels) >= 3; pixels = pixels[3:] {
		pixels[0], pixels[1], pixels[2] = s.levels(s.linear[0][pixels[0]], s.linear[1][pixels[1]], s.linear[2][pixels[2]])
	}
}

func (s *shaper) apply16(out []byte, samples []uint16) {
	for ; len(out) >= 3; out, samples = out[3:], samples[3:] {
		out[0], out[1], out[2] = s.levels(light(&s.linear[0], samples[0]), light(&s.linear[1], samples[1]), light(&s.linear[2], samples[2]))
	}
}

// light returns the linear light of a sample of 16 bits.
func light(line *[256]float32, sample uint16) float32 {
	before, after := between(sample)
	return line[before] + (line[before+1]-line[before])*after
}

// levels returns the levels of sRGB for linear light.
func (s *shaper) levels(r, g, b float32) (byte, byte, byte) {
	encode, m := encoding(), &s.matrix
	if s.system != nil {
		gain := s.system.gain(r, g, b)
		r, g, b = r*gain, g*gain, b*gain
	}
	return encode.level(m[0][0]*r + m[0][1]*g + m[0][2]*b),
		encode.level(m[1][0]*r + m[1][1]*g + m[1][2]*b),
		encode.level(m[2][0]*r + m[2][1]*g + m[2][2]*b)
}

func (g *gray) apply16(out []byte, samples []uint16) {
	encode := encoding()
	for ; len(out) >= 3; out, samples = out[3:], samples[3:] {
		before, after := between(samples[0])
		a, b := &g.linear[before], &g.linear[before+1]
		for c := range 3 {
			out[c] = encode.level(a[c] + (b[c]-a[c])*after)
		}
	}
}

// between returns the level of 8 bits at or below a sample of 16 bits, at most 254, and how far the sample is from it to the next
// one. Linear light is nearly straight between two levels.
func between(sample uint16) (level int, after float32) {
	const unit = 65535 / 255
	level = min(int(sample)/unit, 254)
	return level, float32(int(sample)-level*unit) / unit
}

// levels are the levels of sRGB for linear values of 0..1, times their number.
type levels [1<<16 + 1]byte

func (l *levels) level(linear float32) byte {
	return l[int(min(max(linear, 0), 1)*float32(len(l)-1)+0.5)]
}

var encoding = sync.OnceValue(func() *levels {
	l := new(levels)
	for i := range l {
		v := float64(i) / float64(len(l)-1)
		if v > 0.0031308 {
			v = 1.055*math.Pow(v, 1/2.4) - 0.055
		} else {
			v *= 12.92
		}
		l[i] = byte(v*255 + 0.5)
	}
	return l
})

func decodeSRGB(v float64) float64 {
	if v > 0.04045 {
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return v / 12.92
}

// A Chromaticity is x and y of CIE 1931.
type Chromaticity struct{ X, Y float64 }

// Primaries are the chromaticities of a display.
type Primaries struct{ Red, Green, Blue, White Chromaticity }

var (
	d65 = Chromaticity{0.3127, 0.3290}
	// The white C of BT.470 and of film.
	whiteC = Chromaticity{0.310, 0.316}
	bt709  = Primaries{Chromaticity{0.640, 0.330}, Chromaticity{0.300, 0.600}, Chromaticity{0.150, 0.060}, d65}
)

// FromCICP returns the Transform of colour primaries and transfer characteristics of ITU-T H.273 (its tables 2 and 3), as PNG and
// AVIF state them. 2, unspecified, is taken for sRGB. So are the curves of cameras for television (BT.709, BT.601 and
// BT.2020): what viewers show of images with them is the level as it is. Errors: reserved numbers.
func FromCICP(primaries, transfer uint8) (*Transform, error) {
	p, known := cicpPrimaries(primaries)
	if !known {
		return nil, fmt.Errorf("colour: unknown primaries: %d", primaries)
	}
	curve := cicpCurve(transfer)
	if curve == nil {
		return nil, fmt.Errorf("colour: unknown transfer characteristics: %d", transfer)
	}
	return display(p, curve, transfer == hlg)
}

const (
	pq  = 16
	hlg = 18
)

// cicpCurve returns the linear light of a level, by the number of its transfer characteristics; nil if the number is reserved.
func cicpCurve(transfer uint8) func(v float64) float64 {
	switch transfer {
	case 1, 2, 6, 11, 12, 13, 14, 15:
		return decodeSRGB
	case 4:
		return power(2.2)
	case 5:
		return power(2.8)
	case 7: // SMPTE ST 240
		return func(v float64) float64 {
			if v < 4*0.0228 {
				return v / 4
			}
			return math.Pow((v+0.1115)/1.1115, 1/0.45)
		}
	case 8:
		return power(1)
	case 9:
		return logarithmic(2)
	case 10:
		return logarithmic(2.5)
	case pq:
		return fromPQ
	case 17: // SMPTE ST 428-1
		return func(v float64) float64 { return 52.37 / 48 * math.Pow(v, 2.6) }
	case hlg:
		return fromHLG
	}
	return nil
}

func cicpPrimaries(number uint8) (Primaries, bool) {
	switch number {
	case 1, 2:
		return bt709, true
	case 4:
		return Primaries{Chromaticity{0.67, 0.33}, Chromaticity{0.21, 0.71}, Chromaticity{0.14, 0.08}, whiteC}, true
	case 5:
		return Primaries{Chromaticity{0.64, 0.33}, Chromaticity{0.29, 0.60}, Chromaticity{0.15, 0.06}, d65}, true
	case 6, 7:
		return Primaries{Chromaticity{0.630, 0.340}, Chromaticity{0.310, 0.595}, Chromaticity{0.155, 0.070}, d65}, true
	case 8:
		return Primaries{Chromaticity{0.681, 0.319}, Chromaticity{0.243, 0.692}, Chromaticity{0.145, 0.049}, whiteC}, true
	case 9:
		return Primaries{Chromaticity{0.708, 0.292}, Chromaticity{0.170, 0.797}, Chromaticity{0.131, 0.046}, d65}, true
	case 10: // CIE XYZ
		return Primaries{Chromaticity{1, 0}, Chromaticity{0, 1}, Chromaticity{0, 0}, Chromaticity{1.0 / 3, 1.0 / 3}}, true
	case 11:
		return Primaries{Chromaticity{0.680, 0.320}, Chromaticity{0.265, 0.690}, Chromaticity{0.150, 0.060}, Chromaticity{0.314, 0.351}}, true
	case 12:
		return Primaries{Chromaticity{0.680, 0.320}, Chromaticity{0.265, 0.690}, Chromaticity{0.150, 0.060}, d65}, true
	case 22:
		return Primaries{Chromaticity{0.630, 0.340}, Chromaticity{0.295, 0.605}, Chromaticity{0.155, 0.077}, d65}, true
	}
	return Primaries{}, false
}

func power(exponent float64) func(v float64) float64 {
	return func(v float64) float64 { return math.Pow(v, exponent) }
}

// logarithmic returns the curve of a range of so many powers of ten; 0 is black.
func logarithmic(decades float64) func(v float64) float64 {
	return func(v float64) float64 {
		if v == 0 {
			return 0
		}
		return math.Pow(10, decades*(v-1))
	}
}

// FromGamma returns the Transform of a PNG's gAMA and cHRM: linear light is the level to the power of 1/gamma. Programs that mean
// sRGB write 1/2.2, so that is taken for sRGB's curve. primaries may be nil, for those of sRGB.
func FromGamma(gamma float64, primaries *Primaries) (*Transform, error) {
	const least, most = 0.1, 10 // what is further from 1 is a mistake
	if !(gamma >= least && gamma <= most) {
		return nil, fmt.Errorf("colour: bad gamma: %v", gamma)
	}
	if primaries == nil {
		primaries = &bt709
	}
	curve := power(1 / gamma)
	if math.Abs(gamma-1/2.2) < 0.005 {
		curve = decodeSRGB
	}
	return display(*primaries, curve, false)
}

// display returns the Transform of a display whose channels have one curve. scene: it is to the light of HLG's scene.
func display(p Primaries, curve func(v float64) float64, scene bool) (*Transform, error) {
	from, okay := toXYZ(p)
	srgb, _ := toXYZ(bt709)
	back, _ := srgb.inverse()
	if !okay {
		return nil, errors.New("colour: the primaries span no space")
	}
	// The white of both becomes the same, as by relative colorimetric intent.
	m := back.times(adapt(white(p.White), white(d65))).times(from)
	s := &shaper{matrix: m.float32()}
	if scene {
		s.system = hlgSystem(from)
	}
	for i := range 256 {
		v := float32(curve(float64(i) / 255))
		for c := range s.linear {
			s.linear[c][i] = v
		}
	}
	return simplest(&Transform{shaper: s}), nil
}

type vector [3]float64

type matrix [3]vector

func (m matrix) times(n matrix) matrix {
	var out matrix
	for i := range out {
		for j := range out[i] {
			out[i][j] = m[i][0]*n[0][j] + m[i][1]*n[1][j] + m[i][2]*n[2][j]
		}
	}
	return out
}

func (m matrix) of(v vector) vector {
	var out vector
	for i := range out {
		out[i] = m[i][0]*v[0] + m[i][1]*v[1] + m[i][2]*v[2]
	}
	return out
}

func (m matrix) inverse() (matrix, bool) {
	cofactor := func(i, j int) float64 {
		a, b, c, d := (i+1)%3, (i+2)%3, (j+1)%3, (j+2)%3
		return m[a][c]*m[b][d] - m[a][d]*m[b][c]
	}
	determinant := m[0][0]*cofactor(0, 0) + m[0][1]*cofactor(0, 1) + m[0][2]*cofactor(0, 2)
	if !(math.Abs(determinant) > 1e-9) {
		return matrix{}, false
	}
	var out matrix
	for i := range out {
		for j := range out[i] {
			out[j][i] = cofactor(i, j) / determinant
		}
	}
	return out, true
}

func (m matrix) float32() (out [3][3]float32) {
	for i := range out {
		for j := range out[i] {
			out[i][j] = float32(m[i][j])
		}
	}
	return out
}

// white returns XYZ of a chromaticity with Y = 1.
func white(c Chromaticity) vector { return vector{c.X / c.Y, 1, (1 - c.X - c.Y) / c.Y} }

// toXYZ returns the matrix from linear RGB to XYZ, and whether the primaries have one.
func toXYZ(p Primaries) (matrix, bool) {
	columns := [...]Chromaticity{p.Red, p.Green, p.Blue}
	var m matrix
	for j, c := range columns {
		m[0][j], m[1][j], m[2][j] = c.X, c.Y, 1-c.X-c.Y
	}
	inverse, okay := m.inverse()
	if !okay || !(p.White.Y > 0) {
		return matrix{}, false
	}
	scale := inverse.of(white(p.White))
	for i := range m {
		for j := range m[i] {
			m[i][j] *= scale[j]
		}
	}
	return m, true
}

// adapt returns the matrix that takes a white to another, by Bradford's model as ICC profiles do (ICC.1:2022, annex E).
func adapt(from, to vector) matrix {
	cones := matrix{{0.8951, 0.2664, -0.1614}, {-0.7502, 1.7135, 0.0367}, {0.0389, -0.0685, 1.0296}}
	back, _ := cones.inverse()
	a, b := cones.of(from), cones.of(to)
	var gain matrix
	for i := range gain {
		gain[i][i] = b[i] / a[i]
	}
	return back.times(gain).times(cones)
}

// simplest returns nil for a Transform that changes no level by more than 1.
func simplest(t *Transform) *Transform {
	const step = 17 // of the levels; 15 steps
	sample := make([]byte, 0, 3*16*16*16)
	for i := range 16 * 16 * 16 {
		sample = append(sample, byte(i/256*step), byte(i/16%16*step), byte(i%16*step))
	}
	for i := range 256 {
		sample = append(sample, byte(i), byte(i), byte(i))
	}
	if t.gray != nil {
		sample = sample[16*16*16*3:]
	}
	out := append([]byte(nil), sample...)
	t.Apply(out)
	for i, v := range sample {
		if d := int(v) - int(out[i]); d > 1 || d < -1 {
			return t
		}
	}
	return nil
}

// check returns the cause if the context has ended.
func check(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
