package colour

import (
	"context"
	"math"
	"sync"

	"github.com/kovidgoyal/imaging/prism/meta/icc"
)

// The numbers of nodes along each side of a grid of three and of four channels. They are those of Little CMS for 8 bits.
const (
	side3 = 33
	side4 = 17
)

// A grid is a function of three or four channels by its values at nodes: f of X, Y and Z (see fold), in which CIE Lab is linear,
// as tables of profiles are. sRGB itself bends where a colour leaves its gamut. Between nodes the function is linear within each
// of the six tetrahedra of a cube, which keeps grays gray; between two cubes of the fourth channel it is linear too.
type grid struct {
	at     *positions
	values [][3]float32 // the first channel changes slowest
	matrix [3][3]float32
}

// fold is CIE's f: the cube root, and a line for dark colours.
func fold(v float64) float64 {
	if v > 216.0/24389 {
		return math.Cbrt(v)
	}
	return (24389.0/27*v + 16) / 116
}

// levels returns the levels of sRGB for a value of the grid.
func (g *grid) levels(v [3]float32) (r, green, b byte) {
	for i, f := range v {
		if f > 6.0/29 {
			v[i] = f * f * f
		} else {
			v[i] = (116*f - 16) * (27.0 / 24389)
		}
	}
	encode, m := encoding(), &g.matrix
	return encode.level(m[0][0]*v[0] + m[0][1]*v[1] + m[0][2]*v[2]),
		encode.level(m[1][0]*v[0] + m[1][1]*v[1] + m[1][2]*v[2]),
		encode.level(m[2][0]*v[0] + m[2][1]*v[1] + m[2][2]*v[2])
}

// positions are where the 256 levels lie along the side of a grid: before which node, and how far after it.
type positions struct {
	side   int
	before [256]int32
	after  [256]float32
}

var positions3, positions4 = positionsOf(side3), positionsOf(side4)

func positionsOf(side int) func() *positions {
	return sync.OnceValue(func() *positions {
		p := &positions{side: side}
		for i := range 256 {
			before := min(i*(side-1)/255, side-2)
			p.before[i], p.after[i] = int32(before), float32(i*(side-1))/255-float32(before)
		}
		return p
	})
}

// fromTables returns the Transform of a profile with tables.
func fromTables(ctx context.Context, pipeline *icc.Pipeline, channels Channels) (*Transform, error) {
	g := &grid{at: positions3()}
	if channels == CMYK {
		g.at = positions4()
	}
	side := g.at.side
	g.values = make([][3]float32, int(math.Pow(float64(side), float64(channels))))
	srgb, _ := toXYZ(bt709)
	of := white(d65)
	const uninterrupted = 1024 // nodes
	for node := range g.values {
		if node%uninterrupted == 0 {
			if err := check(ctx); err != nil {
				return nil, err
			}
		}
		var in [4]float64
		for rest, c := node, int(channels)-1; c >= 0; rest, c = rest/side, c-1 {
			in[c] = float64(rest%side) / float64(side-1)
		}
		out := evaluate(pipeline, in)
		xyz := srgb.of(vector{decodeSRGB(out[0]), decodeSRGB(out[1]), decodeSRGB(out[2])})
		for i, v := range xyz {
			g.values[node][i] = float32(fold(v / of[i]))
		}
	}
	// From X, Y and Z in units of the white to linear sRGB.
	back, _ := srgb.inverse()
	for i := range back {
		for j := range back[i] {
			g.matrix[i][j] = float32(back[i][j] * of[j])
		}
	}
	return &Transform{grid: g}, nil
}

func (g *grid) apply(pixels []byte) {
	for ; len(pixels) >= 3; pixels = pixels[3:] {
		pixels[0], pixels[1], pixels[2] = g.levels(g.tetrahedron(g.values, [3]byte(pixels), 1))
	}
}

func (g *grid) applyInks(out, cmy, black []byte) {
	for i := 0; i+3 <= len(out); i += 3 {
		k := 255 - black[i]
		inks := [3]byte{255 - cmy[i], 255 - cmy[i+1], 255 - cmy[i+2]}
		first := g.at.before[k]
		a, b := g.tetrahedron(g.values[first:], inks, g.at.side), g.tetrahedron(g.values[first+1:], inks, g.at.side) // black changes fastest
		for c := range 3 {
			a[c] += (b[c] - a[c]) * g.at.after[k]
		}
		out[i], out[i+1], out[i+2] = g.levels(a)
	}
}

// tetrahedron interpolates within a cube. stride: the distance between nodes of the third channel.
func (g *grid) tetrahedron(values [][3]float32, in [3]byte, stride int) [3]float32 {
	steps := [3]int{stride * g.at.side * g.at.side, stride * g.at.side, stride}
	base := int(g.at.before[in[0]])*steps[0] + int(g.at.before[in[1]])*steps[1] + int(g.at.before[in[2]])*steps[2]
	x, y, z := g.at.after[in[0]], g.at.after[in[1]], g.at.after[in[2]]
	// The path from the first node to the last goes along the channels in descending order of how far the colour is along
	// them.
	first, second := 0, 1
	if x < y {
		x, y, first, second = y, x, 1, 0
	}
	if y < z {
		y, z, second = z, y, 2
		if x < y {
			x, y, first, second = y, x, second, first
		}
	}
	a, d := &values[base], &values[base+steps[0]+steps[1]+steps[2]]
	b := &values[base+steps[first]]
	c := &values[base+steps[first]+steps[second]]
	p, q, r := 1-x, x-y, y-z
	return [3]float32{
		p*a[0] + q*b[0] + r*c[0] + z*d[0],
		p*a[1] + q*b[1] + r*c[1] + z*d[1],
		p*a[2] + q*b[2] + r*c[2] + z*d[2],
	}
}
