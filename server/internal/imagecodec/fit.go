package imagecodec

import (
	"context"
	"image"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// LetterboxGrey is the value of the pixels beside an image that has settings.Letterbox: that in the middle.
const LetterboxGrey = 128

// A Frame says where an image lies in the model's input, and how large it was before.
type Frame struct {
	Width, Height int             // of the model's input, or of an image that goes through it in tiles
	Part          image.Rectangle // of the input, that shows the image
	// Sent is the size of the upright image as it was sent, with settings.Crop of the part of it that the model sees.
	Sent settings.Size
}

// A placement is how an upright image becomes the model's input: it is resized, and put into an area of which the rest is
// filled, or from which it protrudes.
type placement struct {
	scaled settings.Size
	area   settings.Size
	x, y   int // of the image in the area; negative: it protrudes
	tiling *Tiling
}

// plain reports whether the resized image is the input.
func (p *placement) plain() bool { return p.scaled == p.area }

// place returns the placement of an upright image of width x height.
func (c *Config) place(width, height int) placement {
	sent := settings.Size{Width: width, Height: height}
	if c.Size.Keep() {
		return c.placeKept(c.shrunk(sent))
	}
	p := placement{scaled: c.Size, area: c.Size}
	// Cross products compare the proportions: the image is wider than the area.
	wider := width*c.Size.Height > height*c.Size.Width
	switch c.Fit {
	case settings.Pad, settings.Letterbox:
		p.scaled = scaledTo(sent, c.Size, wider)
	case settings.Crop:
		p.scaled = scaledTo(sent, c.Size, !wider)
	}
	if c.Fit != settings.Pad {
		p.x, p.y = (p.area.Width-p.scaled.Width)/2, (p.area.Height-p.scaled.Height)/2
	}
	return p
}

// scaledTo returns a size with the proportions of from, and the width of an area, or its height.
func scaledTo(from, area settings.Size, byWidth bool) settings.Size {
	if byWidth {
		return settings.Size{Width: area.Width, Height: rounded(from.Height*area.Width, from.Width)}
	}
	return settings.Size{Width: rounded(from.Width*area.Height, from.Height), Height: area.Height}
}

// shrunk returns a size within MaxSide.
func (c *Config) shrunk(size settings.Size) settings.Size {
	longer := max(size.Width, size.Height)
	if c.MaxSide == 0 || longer <= c.MaxSide {
		return size
	}
	return settings.Size{Width: rounded(size.Width*c.MaxSide, longer), Height: rounded(size.Height*c.MaxSide, longer)}
}

// placeKept places an image that keeps its size.
func (c *Config) placeKept(size settings.Size) placement {
	if c.Fit != settings.Pad && c.Tile == 0 {
		size = settings.Size{Width: c.nearestMultiple(size.Width), Height: c.nearestMultiple(size.Height)}
		return placement{scaled: size, area: size}
	}
	area := settings.Size{Width: nextMultiple(size.Width, c.MultipleOf), Height: nextMultiple(size.Height, c.MultipleOf)}
	if c.Tile != 0 && max(area.Width, area.Height) > c.Tile {
		return placement{scaled: size, area: size, tiling: c.tiling(size, area)}
	}
	return placement{scaled: size, area: area}
}

// nextMultiple returns the least multiple that isn't less than side.
func nextMultiple(side, of int) int {
	of = max(1, of)
	return (side + of - 1) / of * of
}

// frame returns the Frame of an image that was sent at a size.
func (p *placement) frame(sent settings.Size) Frame {
	f := Frame{Width: p.area.Width, Height: p.area.Height, Sent: sent}
	whole := image.Rect(0, 0, p.area.Width, p.area.Height)
	scaled := image.Rect(p.x, p.y, p.x+p.scaled.Width, p.y+p.scaled.Height)
	if f.Part = scaled.Intersect(whole); f.Part != scaled {
		f.Sent.Width = rounded(sent.Width*f.Part.Dx(), scaled.Dx())
		f.Sent.Height = rounded(sent.Height*f.Part.Dy(), scaled.Dy())
	}
	return f
}

// checkPlacement returns an error for an image that would be too large on its way to the model: where the sides must be
// multiples, a small image can become a large one, and a long one where it must cover an area.
func (c *Codec) checkPlacement(p *placement) error {
	if !c.config.Size.Keep() && c.config.Fit != settings.Crop {
		return nil // whoever sets the size accepts it
	}
	return c.checkPixels(max(p.scaled.Width, p.area.Width), max(p.scaled.Height, p.area.Height))
}

// placed returns an image as the model's input. It takes the image over.
func (c *Codec) placed(ctx context.Context, in *Input, scaled Image) (Image, error) {
	p := &in.placement
	if p.plain() {
		return scaled, nil
	}
	area := Image{Width: p.area.Width, Height: p.area.Height, Channels: 3, Pixels: c.Alloc(p.area.Width * p.area.Height * 3)}
	err := eachRow(ctx, area.Height, func(y int) {
		to := area.Pixels[3*area.Width*y:][:3*area.Width]
		row := y - p.y
		if row < 0 || row >= scaled.Height {
			if c.config.Fit == settings.Letterbox {
				fill(to, c.config.Fill)
				return
			}
			row = reflect(row, scaled.Height)
		}
		c.placeRow(to, scaled.Pixels[3*scaled.Width*row:][:3*scaled.Width], p.x)
	})
	c.Recycle(scaled.Pixels)
	if err != nil {
		c.Recycle(area.Pixels)
		return Image{}, err
	}
	if area.alpha = scaled.alpha; area.alpha != nil {
		visible := in.Frame().Part.Sub(image.Pt(p.x, p.y))
		area.alpha.cut(visible.Min.X, visible.Min.Y, visible.Dx(), visible.Dy())
	}
	return area, nil
}

// placeRow puts a row of an image into one of an area, at x.
func (c *Codec) placeRow(to, from []byte, x int) {
	if x < 0 {
		copy(to, from[-3*x:])
		return
	}
	width := len(from) / 3
	copy(to[3*x:], from)
	if c.config.Fit == settings.Letterbox {
		fill(to[:3*x], c.config.Fill)
		fill(to[min(len(to), 3*(x+width)):], c.config.Fill)
		return
	}
	extend(to, from, width)
}

func fill(pixels []byte, value byte) {
	for i := range pixels {
		pixels[i] = value
	}
}

// extend sets the pixels of a row from x on to the reflection of the image's row, which begins at the same place.
func extend(to, from []byte, x int) {
	width := len(from) / 3
	for ; 3*x < len(to); x++ {
		copy(to[3*x:3*x+3], from[3*reflect(x, width):])
	}
}

// reflect returns which of n pixels shows at i if they are followed by their reflection, without the edge itself, and so on
// in both directions.
func reflect(i, n int) int {
	if n == 1 {
		return 0
	}
	period := 2 * (n - 1)
	if i %= period; i < 0 {
		i += period
	}
	return min(i, period-i)
}

// Frame returns where the image lies in the image that Decode returns.
func (in *Input) Frame() Frame {
	width, height := in.SentSize()
	return in.placement.frame(settings.Size{Width: width, Height: height})
}

// PrepareBeside is Prepare for an image that goes into the model beside another one, and lies in its input like that one.
func (c *Codec) PrepareBeside(data []byte, beside *Input) (*Input, error) {
	in := &Input{placement: beside.placement}
	if err := c.prepare(in, data); err != nil {
		return nil, err
	}
	return in, nil
}

// CutOutput crops a model's output, in its memory, to the part that shows the image.
func (f *Frame) CutOutput(out *Image) {
	if f.Part.Dx() == f.Width && f.Part.Dy() == f.Height {
		return
	}
	left, right := scaledSpan(f.Part.Min.X, f.Part.Max.X, f.Width, out.Width)
	top, bottom := scaledSpan(f.Part.Min.Y, f.Part.Max.Y, f.Height, out.Height)
	out.cut(left, top, right-left, bottom-top)
}

// cut crops an image in its memory.
func (p *Image) cut(left, top, width, height int) {
	for y := range height {
		copy(p.Pixels[y*width*p.Channels:], p.Pixels[((top+y)*p.Width+left)*p.Channels:][:width*p.Channels])
	}
	p.Width, p.Height, p.Pixels = width, height, p.Pixels[:width*height*p.Channels]
}

// scaledSpan returns the pixels of a line of `to` pixels which show those from begin to end of one of `from`, at least one.
func scaledSpan(begin, end, from, to int) (scaledBegin, scaledEnd int) {
	begin = min((begin*to+from/2)/from, to-1)
	return begin, max(begin+1, (end*to+from/2)/from)
}
