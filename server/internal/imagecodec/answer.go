package imagecodec

import (
	"context"
	"fmt"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// ScaleOf returns how many times as large as the input an output is; 0: it isn't a whole number of times as large.
func ScaleOf(input, output settings.Size) int {
	scale := output.Width / input.Width
	if output != (settings.Size{Width: scale * input.Width, Height: scale * input.Height}) {
		return 0
	}
	return scale
}

// An Answer is the size of a result.
type Answer struct {
	Size  settings.AnswerSize
	Scale int // of the model's output relative to its input, or 0; see ScaleOf
}

// own returns the size of the result as the model makes it.
func (c *Codec) own(f *Frame, scale int) settings.Size {
	if c.config.Output.NeedsSent() {
		return f.Sent
	}
	scale = max(1, scale)
	return settings.Size{Width: scale * f.Part.Dx(), Height: scale * f.Part.Dy()}
}

// ResultSize returns the size of the result for an image with this frame. For a model whose Scale isn't known, it is that of
// a model that changes no size.
func (c *Codec) ResultSize(f *Frame, a Answer) settings.Size {
	switch {
	case a.Size.Sent && c.config.Output.NeedsSent():
		return f.Sent
	case a.Size.Sent:
		scale := max(1, a.Scale)
		return settings.Size{Width: scale * f.Sent.Width, Height: scale * f.Sent.Height}
	case a.Size.Size != settings.Size{}:
		return a.Size.Size
	}
	return c.own(f, a.Scale)
}

// CheckResult returns an *Error if a result of the size of ResultSize can't be made, or the format can't hold it.
func (c *Codec) CheckResult(f *Frame, a Answer, format settings.Format) error {
	size := c.ResultSize(f, a)
	if own := c.own(f, a.Scale); size != own {
		pixels := int64(size.Width) * int64(size.Height)
		if pixels > c.config.MaxPixels && pixels > int64(own.Width)*int64(own.Height) {
			return c.tooManyPixels(size)
		}
		cost, err := torch.EstimateResize(own.Width, own.Height, torch.Upright, c.resultFilter(), size.Width, size.Height)
		if err != nil {
			return err
		}
		if picoseconds(cost.Step)*perProduct > uninterrupted {
			return &Error{TooMuchWork, fmt.Sprintf("too much work: enlarging a result of %dx%d pixels to %dx%d: ask for a smaller size",
				own.Width, own.Height, size.Width, size.Height)}
		}
	}
	return c.Fits(size.Width, size.Height, format)
}

// ResultMemory returns how many bytes a result of a size needs besides the model's output: the pixels, what resizing them
// needs, and the buffer or the copy of a format's encoder.
func (c *Codec) ResultMemory(f *Frame, a Answer, format settings.Format) int64 {
	size := c.ResultSize(f, a)
	pixels := int64(size.Width) * int64(size.Height)
	var bytes int64
	if size != c.own(f, a.Scale) {
		bytes = 7 * pixels // with alpha: two resized images of three channels, and the result of four in place of one
	}
	switch format {
	case settings.JPEG:
		return bytes + 3*pixels
	case settings.AVIF: // the data, and the file made of it
		return bytes + 6*pixels + memoryOfAV1(size.Width, size.Height, 4)
	}
	return bytes + 4*pixels
}

// resultFilter returns the filter that resizes results: class numbers can't be mixed.
func (c *Codec) resultFilter() torch.Filter {
	if c.config.Output == settings.Classes {
		return torch.Nearest
	}
	return c.config.ResizeFilter
}

// ResizeResult resizes a result. The caller still owns it, and may recycle the new one. Errors: an *Error for a size that
// CheckResult would refuse, had it known the size of the result before; the context's cause if the context ends while it
// waits for a slot, and soon after it ends while it works.
func (c *Codec) ResizeResult(ctx context.Context, p Image, size settings.Size) (Image, error) {
	if pixels := int64(size.Width) * int64(size.Height); pixels > c.config.MaxPixels && pixels > int64(p.Width)*int64(p.Height) {
		return Image{}, c.tooManyPixels(size)
	}
	release, err := c.queue.Acquire(ctx, cpu.Encoding)
	if err != nil {
		return Image{}, err
	}
	defer release()
	switch p.Channels {
	case 1:
		return c.resizeGray(ctx, p, size)
	case 4:
		return c.resizeAlpha(ctx, p, size)
	}
	out := c.scratch(size.Width, size.Height, 3)
	return c.finished(out, c.resize(ctx, p, c.resultFilter(), out))
}

// resizeGray resizes one channel. The resize knows colours only.
func (c *Codec) resizeGray(ctx context.Context, p Image, size settings.Size) (Image, error) {
	rgb := c.scratch(p.Width, p.Height, 3)
	defer c.pool.put(rgb.Pixels)
	for i, v := range p.Pixels {
		rgb.Pixels[3*i], rgb.Pixels[3*i+1], rgb.Pixels[3*i+2] = v, v, v
	}
	out := c.scratch(size.Width, size.Height, 3)
	if err := c.resize(ctx, rgb, c.resultFilter(), out); err != nil {
		return c.finished(out, err)
	}
	count := size.Width * size.Height
	for i := range count {
		out.Pixels[i] = out.Pixels[3*i]
	}
	out.Channels, out.Pixels = 1, out.Pixels[:count]
	return out, nil
}

// resizeAlpha resizes RGBA. As in Pillow's resize, a colour weighs as much as it is opaque, so that the colours of transparent
// pixels don't show.
func (c *Codec) resizeAlpha(ctx context.Context, p Image, size settings.Size) (Image, error) {
	colours, alpha := c.scratch(p.Width, p.Height, 3), c.scratch(p.Width, p.Height, 1)
	defer c.pool.put(colours.Pixels)
	defer c.pool.put(alpha.Pixels)
	weighted := c.resultFilter() != torch.Nearest
	for i := range alpha.Pixels {
		pixel := p.Pixels[4*i:]
		a := pixel[3]
		for k := range 3 {
			v := pixel[k]
			if weighted {
				v = byte((int(v)*int(a) + 127) / 255)
			}
			colours.Pixels[3*i+k] = v
		}
		alpha.Pixels[i] = a
	}
	large := c.scratch(size.Width, size.Height, 3)
	defer c.pool.put(large.Pixels)
	if err := c.resize(ctx, colours, c.resultFilter(), large); err != nil {
		return Image{}, err
	}
	mask, err := c.resizeGray(ctx, alpha, size)
	if err != nil {
		return Image{}, err
	}
	defer c.pool.put(mask.Pixels)
	out := c.scratch(size.Width, size.Height, 4)
	err = eachRow(ctx, size.Height, func(y int) {
		for i := y * size.Width; i < (y+1)*size.Width; i++ {
			a := mask.Pixels[i]
			for k := range 3 {
				v := large.Pixels[3*i+k]
				if weighted && a > 0 {
					v = byte(min(255, (int(v)*255+int(a)/2)/int(a)))
				}
				out.Pixels[4*i+k] = v
			}
			out.Pixels[4*i+3] = a
		}
	})
	return c.finished(out, err)
}

func (c *Codec) tooManyPixels(size settings.Size) *Error {
	return &Error{TooManyPixels, fmt.Sprintf("too many pixels: the result of %dx%d is more than %d pixels: ask for a smaller size",
		size.Width, size.Height, c.config.MaxPixels)}
}
