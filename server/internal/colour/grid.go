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
// of the six tetrahedra of a cube, which keeps grays gray; of inks it is linear between two such cubes, too.
type grid struct {
	at     *positions
	values [][3]float32 // the first channel changes slowest
	// From X, Y and Z in units of the white to linear sRGB, and what black-point compensation takes away.
	matrix [3][3]float32
	offset [3]float32
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
	encode, m, o := encoding(), &g.matrix, &g.offset
	return encode.level(m[0][0]*v[0] + m[0][1]*v[1] + m[0][2]*v[2] + o[0]),
		encode.level(m[1][0]*v[0] + m[1][1]*v[1] + m[1][2]*v[2] + o[1]),
		encode.level(m[2][0]*v[0] + m[2][1]*v[1] + m[2][2]*v[2] + o[2])
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

// of returns where a colour of three channels lies in a grid: its cube's first node, and how far along each side of the cube.
func (p *positions) of(a, b, c byte) (base int, x, y, z float32) {
	base = (int(p.before[a])*p.side+int(p.before[b]))*p.side + int(p.before[c])
	return base, p.after[a], p.after[b], p.after[c]
}

// of16 is of for samples of 16 bits.
func (p *positions) of16(a, b, c uint16) (base int, x, y, z float32) {
	i, x := p.along(a)
	j, y := p.along(b)
	k, z := p.along(c)
	return (int(i)*p.side+int(j))*p.side + int(k), x, y, z
}

func (p *positions) along(sample uint16) (before int32, after float32) {
	at := int32(sample) * int32(p.side-1)
	before = min(at/65535, int32(p.side-2))
	return before, float32(at-before*65535) / 65535
}

// fromTables returns the Transform of a profile with tables. pipeline, uncompensated: with and without black-point compensation,
// which bends what is linear in the grid, so it follows the grid.
func fromTables(ctx context.Context, pipeline, uncompensated *icc.Pipeline, channels Channels) (*Transform, error) {
	g := &grid{at: positions3()}
	if channels == CMYK {
		g.at = positions4()
	}
	side := g.at.side
	g.values = make([][3]float32, int(math.Pow(float64(side), float64(channels))))
	srgb, _ := toXYZ(bt709)
	of := white(d65)
	inUnits := func(pipeline *icc.Pipeline, in [4]float64) vector { // of the white
		out := evaluate(pipeline, in)
		xyz := srgb.of(vector{decodeSRGB(out[0]), decodeSRGB(out[1]), decodeSRGB(out[2])})
		return vector{xyz[0] / of[0], xyz[1] / of[1], xyz[2] / of[2]}
	}
	var darkest, lightest struct {
		in  [4]float64
		xyz vector
	}
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
		xyz := inUnits(uncompensated, in)
		for i, v := range xyz {
			g.values[node][i] = float32(fold(v))
		}
		if node == 0 || xyz[1] < darkest.xyz[1] {
			darkest.in, darkest.xyz = in, xyz
		}
		if node == 0 || xyz[1] > lightest.xyz[1] {
			lightest.in, lightest.xyz = in, xyz
		}
	}
	// The compensation scales each of X, Y and Z, and shifts it; two colours tell by how much.
	dark, light := inUnits(pipeline, darkest.in), inUnits(pipeline, lightest.in)
	back, _ := srgb.inverse()
	for j := range 3 {
		scale, shift := 1.0, 0.0
		if span := lightest.xyz[j] - darkest.xyz[j]; span > 1e-6 {
			scale = (light[j] - dark[j]) / span
			shift = dark[j] - darkest.xyz[j]*scale
		}
		for i := range 3 {
			g.matrix[i][j] = float32(back[i][j] * of[j] * scale)
			g.offset[i] += float32(back[i][j] * of[j] * shift)
		}
	}
	return &Transform{grid: g}, nil
}

func (g *grid) apply(pixels []byte) {
	for ; len(pixels) >= 3; pixels = pixels[3:] {
		pixels[0], pixels[1], pixels[2] = g.levels(g.tetrahedron(g.at.of(pixels[0], pixels[1], pixels[2])))
	}
}

func (g *grid) applyInks(out, cmy, black []byte) {
	for i := 0; i+3 <= len(out); i += 3 {
		c := 255 - cmy[i]
		base, m, y, k := g.at.of(255-cmy[i+1], 255-cmy[i+2], 255-black[i])
		out[i], out[i+1], out[i+2] = g.ofInks(g.at.before[c], g.at.after[c], base, m, y, k)
	}
}

// ofInks interpolates between two cubes of magenta, yellow and black, as Little CMS does. before, after: where cyan lies; base, m, y,
// k: where the others do.
func (g *grid) ofInks(before int32, after float32, base int, m, y, k float32) (r, green, b byte) {
	cube := g.at.side * g.at.side * g.at.side
	base += int(before) * cube
	near, far := g.tetrahedron(base, m, y, k), g.tetrahedron(base+cube, m, y, k)
	for c := range 3 {
		near[c] += (far[c] - near[c]) * after
	}
	return g.levels(near)
}

func (g *grid) apply16(out []byte, samples []uint16) {
	channels := 3
	if g.at.side == side4 {
		channels = 4
	}
	for ; len(out) >= 3; out, samples = out[3:], samples[channels:] {
		if channels == 3 {
			out[0], out[1], out[2] = g.levels(g.tetrahedron(g.at.of16(samples[0], samples[1], samples[2])))
			continue
		}
		before, after := g.at.along(samples[0])
		base, m, y, k := g.at.of16(samples[1], samples[2], samples[3])
		out[0], out[1], out[2] = g.ofInks(before, after, base, m, y, k)
	}
}

// tetrahedron interpolates within the cube that begins at a node. x, y, z: how far the colour is along its sides.
func (g *grid) tetrahedron(base int, x, y, z float32) [3]float32 {
	values, steps := g.values, [3]int{g.at.side * g.at.side, g.at.side, 1}
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
