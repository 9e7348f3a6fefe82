package imagecodec

import (
	"context"
	"encoding/binary"
	"math"
	"sync"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Parts are what a result is made of.
type Parts struct {
	Output Image // of the model; its channels are the bytes of a pixel by torch.OutputKind
	Input  Image // of the model, RGB
	Sent   Image // RGB, at the size at which it was sent; only for kinds of output that need it
}

// Joins reports whether Join makes a new image of an output.
func (c *Codec) Joins() bool {
	return c.config.Output.NeedsSent() || c.config.Output == settings.Luma
}

// Join makes the result of an output that is only a part of an image:
//
//   - Alpha: the sent image, with the output as its alpha: RGBA.
//   - Chroma: L of the sent image, with a and b of the output, bilinear between its pixels as by torch's interpolate with
//     align_corners=False: RGB.
//   - Luma: the output as Y, with Cb and Cr of the input, resized to the output's size by Pillow's bicubic filter: RGB.
//
// The caller still owns the parts, and may recycle the result. Join returns the context's cause if the context ends while it
// waits for a slot, and soon after it ends while it works.
func (c *Codec) Join(ctx context.Context, p Parts) (Image, error) {
	release, err := c.queue.Acquire(ctx, cpu.Encoding)
	if err != nil {
		return Image{}, err
	}
	defer release()
	switch c.config.Output {
	case settings.Alpha:
		return c.joinAlpha(ctx, p)
	case settings.Chroma:
		return c.joinChroma(ctx, p)
	}
	return c.joinLuma(ctx, p)
}

// bytesOfJoin returns how many bytes Join needs for each pixel of the image as it was sent: that image, the result, and of
// alpha the resized mask.
func bytesOfJoin(kind settings.OutputKind) int64 {
	if kind == settings.Alpha {
		return 3 + 4 + 3
	}
	return 3 + 3
}

// resize resizes RGB pixels to the size of another image, and stops when the context ends.
func (c *Codec) resize(ctx context.Context, from Image, filter torch.Filter, to Image) error {
	resizer, err := torch.NewResizer(from.Width, from.Height, torch.Upright, filter, to.Width, to.Height, to.Pixels)
	if err != nil {
		return err
	}
	defer resizer.Close()
	const pixels = 1 << 16 // at a time
	row := from.Width * from.Channels
	for y, step := 0, max(4, pixels/from.Width); y < from.Height; y += step {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		count := min(step, from.Height-y)
		if err := resizer.Push(from.Pixels[y*row:][:count*row], count, from.Channels); err != nil {
			return err
		}
	}
	return nil
}

// scratch returns an image of undefined content. Unlike Alloc's its memory is always Go's.
func (c *Codec) scratch(width, height, channels int) Image {
	return Image{Width: width, Height: height, Channels: channels, Pixels: c.pool.get(width * height * channels)}
}

// eachRow calls do for each row of an image, until the context ends.
func eachRow(ctx context.Context, height int, do func(y int)) error {
	for y := range height {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		do(y)
	}
	return nil
}

func (c *Codec) joinAlpha(ctx context.Context, p Parts) (Image, error) {
	// The resize knows colours only.
	mask := c.scratch(p.Output.Width, p.Output.Height, 3)
	defer c.pool.put(mask.Pixels)
	for i, v := range p.Output.Pixels {
		mask.Pixels[3*i], mask.Pixels[3*i+1], mask.Pixels[3*i+2] = v, v, v
	}
	large := c.scratch(p.Sent.Width, p.Sent.Height, 3)
	defer c.pool.put(large.Pixels)
	if err := c.resize(ctx, mask, c.config.ResizeFilter, large); err != nil {
		return Image{}, err
	}
	out := c.scratch(p.Sent.Width, p.Sent.Height, 4)
	width := out.Width
	err := eachRow(ctx, out.Height, func(y int) {
		sent, alpha, to := p.Sent.Pixels[3*width*y:], large.Pixels[3*width*y:], out.Pixels[4*width*y:]
		for x := range width {
			to[4*x], to[4*x+1], to[4*x+2], to[4*x+3] = sent[3*x], sent[3*x+1], sent[3*x+2], alpha[3*x]
		}
	})
	return c.finished(out, err)
}

// finished returns an image, or its memory to the pool.
func (c *Codec) finished(out Image, err error) (Image, error) {
	if err != nil {
		c.pool.put(out.Pixels)
		return Image{}, err
	}
	return out, nil
}

// A sampled is a coordinate: the two pixels around each pixel of a larger or smaller line, and the weight of the second.
type sampled struct {
	first, second int
	weight        float32
}

// sample returns where the pixels of a line of `to` pixels lie in one of `from`: (i + 1/2) * from/to - 1/2, as for torch's
// interpolate(mode="bilinear", align_corners=False).
func sample(from, to int) []sampled {
	line := make([]sampled, to)
	for i := range line {
		at := max(0, (float64(i)+0.5)*float64(from)/float64(to)-0.5)
		first := min(int(at), from-1)
		line[i] = sampled{first, min(first+1, from-1), float32(at - float64(first))}
	}
	return line
}

func (c *Codec) joinChroma(ctx context.Context, p Parts) (Image, error) {
	out := c.scratch(p.Sent.Width, p.Sent.Height, 3)
	columns, rows := sample(p.Output.Width, out.Width), sample(p.Output.Height, out.Height)
	t := lab()
	row := 4 * p.Output.Width
	err := eachRow(ctx, out.Height, func(y int) {
		upper, lower, down := p.Output.Pixels[row*rows[y].first:], p.Output.Pixels[row*rows[y].second:], rows[y].weight
		sent, to := p.Sent.Pixels[3*out.Width*y:], out.Pixels[3*out.Width*y:]
		for x, at := range columns {
			var ab [2]float32
			for i := range ab {
				first, second := 4*at.first+2*i, 4*at.second+2*i
				above := fixed(upper[first:])*(1-at.weight) + fixed(upper[second:])*at.weight
				below := fixed(lower[first:])*(1-at.weight) + fixed(lower[second:])*at.weight
				ab[i] = above*(1-down) + below*down
			}
			rgb := t.recolour([3]byte(sent[3*x:]), ab[0], ab[1])
			copy(to[3*x:], rgb[:])
		}
	})
	return c.finished(out, err)
}

// fixed reads a number in units of 1/256.
func fixed(b []byte) float32 { return float32(int16(binary.LittleEndian.Uint16(b))) / 256 }

// labTables convert between sRGB (IEC 61966-2-1) and CIE Lab (1976) with the white D65 for two degrees, with the numbers
// and the steps of scikit-image's rgb2lab and lab2rgb.
type labTables struct {
	linear [256]float32    // of a byte of sRGB
	encode [1<<16 + 1]byte // the byte of sRGB for a linear value in 0..1, times 65536
}

var lab = sync.OnceValue(func() *labTables {
	t := new(labTables)
	for i := range t.linear {
		v := float64(i) / 255
		if v > 0.04045 {
			v = math.Pow((v+0.055)/1.055, 2.4)
		} else {
			v /= 12.92
		}
		t.linear[i] = float32(v)
	}
	for i := range t.encode {
		v := float64(i) / steps
		if v > 0.0031308 {
			v = 1.055*math.Pow(v, 1/2.4) - 0.055
		} else {
			v *= 12.92
		}
		t.encode[i] = byte(v*255 + 0.5)
	}
	return t
})

// steps are those of a linear value in 0..1.
const steps = 1 << 16

// recolour returns the colour with L of an sRGB colour, and other a and b.
func (t *labTables) recolour(rgb [3]byte, a, b float32) [3]byte {
	y := 0.212671*t.linear[rgb[0]] + 0.715160*t.linear[rgb[1]] + 0.072169*t.linear[rgb[2]]
	fy := 7.787*y + 16.0/116
	if y > 0.008856 {
		fy = float32(math.Cbrt(float64(y)))
	}
	const whiteX, whiteZ = 0.95047, 1.08883
	y = unfold(fy)
	x := whiteX * unfold(fy+a/500)
	z := whiteZ * unfold(max(0, fy-b/200))
	return [3]byte{
		t.byteOf(3.240481*x - 1.537152*y - 0.498536*z),
		t.byteOf(-0.969255*x + 1.875990*y + 0.041556*z),
		t.byteOf(0.055647*x - 0.204041*y + 1.057311*z),
	}
}

// unfold is the inverse of CIE's f: the cube, or a line for dark colours.
func unfold(f float32) float32 {
	if f > 0.2068966 {
		return f * f * f
	}
	return (f - 16.0/116) / 7.787
}

func (t *labTables) byteOf(linear float32) byte {
	return t.encode[int(min(max(linear, 0), 1)*steps+0.5)]
}

func (c *Codec) joinLuma(ctx context.Context, p Parts) (Image, error) {
	chroma := c.scratch(p.Input.Width, p.Input.Height, 3)
	defer c.pool.put(chroma.Pixels)
	t := ycc()
	for i := 0; i < len(p.Input.Pixels); i += 3 {
		chroma.Pixels[i], chroma.Pixels[i+1] = t.chroma([3]byte(p.Input.Pixels[i:]))
		chroma.Pixels[i+2] = 0 // the resize knows colours only
	}
	out := c.scratch(p.Output.Width, p.Output.Height, 3)
	if err := c.resize(ctx, chroma, torch.Bicubic, out); err != nil {
		return c.finished(out, err)
	}
	width := out.Width
	err := eachRow(ctx, out.Height, func(y int) {
		luma, to := p.Output.Pixels[width*y:], out.Pixels[3*width*y:]
		for x := range width {
			rgb := t.rgb(luma[x], to[3*x], to[3*x+1])
			copy(to[3*x:], rgb[:])
		}
	})
	return c.finished(out, err)
}

// yccTables convert between RGB and YCbCr by ITU-R BT.601 with full range, as in JFIF, in the fixed-point numbers of Pillow's
// convert: with six bits of fraction, which are cut off.
type yccTables struct {
	cb, cr [3][256]int16 // of red, green and blue
	r      [256]int16    // of Cr
	g      [2][256]int16 // of Cb and Cr
	b      [256]int16    // of Cb
}

const yccBits = 6

var ycc = sync.OnceValue(func() *yccTables {
	t := new(yccTables)
	entry := func(factor float64, v int) int16 { return int16(factor*(1<<yccBits)*float64(v) + 0.5) } // towards zero
	for v := range 256 {
		for i, factor := range [3]float64{-0.16874, -0.33126, 0.5} {
			t.cb[i][v] = entry(factor, v)
		}
		for i, factor := range [3]float64{0.5, -0.41869, -0.08131} {
			t.cr[i][v] = entry(factor, v)
		}
		t.r[v], t.b[v] = entry(1.402, v-128), entry(1.772, v-128)
		t.g[0][v], t.g[1][v] = entry(-0.34414, v-128), entry(-0.71414, v-128)
	}
	return t
})

// chroma returns Cb and Cr of a colour.
func (t *yccTables) chroma(rgb [3]byte) (cb, cr byte) {
	r, g, b := rgb[0], rgb[1], rgb[2]
	cb = clamped(((int(t.cb[0][r]) + int(t.cb[1][g]) + int(t.cb[2][b])) >> yccBits) + 128)
	cr = clamped(((int(t.cr[0][r]) + int(t.cr[1][g]) + int(t.cr[2][b])) >> yccBits) + 128)
	return cb, cr
}

// rgb returns the colour of a Y, Cb and Cr.
func (t *yccTables) rgb(y, cb, cr byte) [3]byte {
	return [3]byte{
		clamped(int(y) + int(t.r[cr])>>yccBits),
		clamped(int(y) + (int(t.g[0][cb])+int(t.g[1][cr]))>>yccBits),
		clamped(int(y) + int(t.b[cb])>>yccBits),
	}
}

func clamped(v int) byte { return byte(min(max(v, 0), 255)) }
