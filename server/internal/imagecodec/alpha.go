package imagecodec

import (
	"context"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// An image's alpha is dropped, which leaves the colours of transparent pixels as they are; or the image is put over a colour; or
// the alpha is resized beside the image, as the three channels of another one, and put back into the result.

// hasAlpha reports whether the alpha of an Input is used.
func (c *Codec) hasAlpha(in *Input) bool { return in.header.alpha && !c.config.Alpha.Drop() }

// keepsAlpha reports whether the alpha of an Input is put back into the result.
func (c *Codec) keepsAlpha(in *Input) bool { return in.header.alpha && c.config.Alpha.Keep }

// wantsAlpha reports whether the decoder must give its rows to pushBand with their alpha.
func (s *sink) wantsAlpha() bool { return s.over != nil || s.alpha != nil }

// pushBand takes rows of RGB, which it may change, and of alpha, one byte for each pixel, if the sink wants it.
func (s *sink) pushBand(pixels, alpha []byte) error {
	if len(alpha) == 0 {
		return s.push(pixels, 3)
	}
	for len(alpha) > 0 {
		if err := s.err(); err != nil {
			return err
		}
		n := min(s.rows*s.width, len(alpha))
		if err := s.pushWithAlpha(pixels[:3*n], alpha[:n]); err != nil {
			return err
		}
		pixels, alpha = pixels[3*n:], alpha[n:]
	}
	return nil
}

// pushWithAlpha is pushBand for at most s.rows rows.
func (s *sink) pushWithAlpha(pixels, alpha []byte) error {
	if s.over != nil {
		if s.transform8 != nil {
			s.transform8.Apply(pixels)
		}
		for i, a := range alpha {
			for c, v := range pixels[3*i : 3*i+3] {
				pixels[3*i+c] = byte((int(v)*int(a) + int(s.over[c])*(255-int(a)) + 127) / 255)
			}
		}
		return s.push(pixels, 3)
	}
	if err := s.push(pixels, 3); err != nil {
		return err
	}
	if s.spread == nil {
		s.spread = make([]byte, 3*s.width*s.rows)
	}
	spread := s.spread[:len(pixels)]
	fromGray(spread, alpha, 1)
	return s.alpha.Push(spread, len(alpha)/s.width, 3)
}

// Opaque reports whether the result of an image has no alpha to be put back.
func (p Image) Opaque() bool { return p.alpha == nil }

// WithAlpha puts the alpha of a decoded image into a result made of it, resized to its size, and recycles the result. A result
// that isn't RGB stays as it is, and so does one for a format without alpha. The caller must not use the alpha of the image
// afterwards. Errors: the context's cause.
func (c *Codec) WithAlpha(ctx context.Context, result, from Image, format settings.Format) (Image, error) {
	if from.Opaque() || result.Channels != 3 || format == settings.JPEG {
		return result, nil
	}
	release, err := c.queue.Acquire(ctx, cpu.Encoding)
	if err != nil {
		return result, err
	}
	defer release()
	mask := *from.alpha
	if mask.Width != result.Width || mask.Height != result.Height {
		large := c.scratch(result.Width, result.Height, 3)
		defer c.pool.put(large.Pixels)
		if err := c.resize(ctx, mask, c.config.ResizeFilter, large); err != nil {
			return result, err
		}
		mask = large
	}
	out := c.scratch(result.Width, result.Height, 4)
	err = eachRow(ctx, out.Height, func(y int) {
		rgb, alpha, to := result.Pixels[3*out.Width*y:], mask.Pixels[3*out.Width*y:], out.Pixels[4*out.Width*y:]
		for x := range out.Width {
			to[4*x], to[4*x+1], to[4*x+2], to[4*x+3] = rgb[3*x], rgb[3*x+1], rgb[3*x+2], alpha[3*x]
		}
	})
	if err != nil {
		c.pool.put(out.Pixels)
		return result, err
	}
	c.Recycle(result.Pixels)
	c.pool.put(from.alpha.Pixels)
	return out, nil
}

// alphaResizer returns a Resizer of an Input's alpha into the image.
func (c *Codec) alphaResizer(in *Input, p *Image) (*torch.Resizer, error) {
	alpha := c.scratch(in.width, in.height, 3)
	p.alpha = &alpha
	h := &in.header
	return torch.NewResizer(h.width, h.height, h.orientation, c.config.ResizeFilter, in.width, in.height, alpha.Pixels)
}

// alphaOf sets out to the alpha of a row of a PNG. transparency: the content of tRNS, or nil.
func (p *pngFile) alphaOf(out, row, transparency []byte) {
	switch size := p.channels * p.depth / 8; {
	case p.channels == 4 || p.channels == 2:
		at := size - p.depth/8 // of the last sample's upper byte
		for x := range out {
			out[x] = row[x*size+at]
		}
	case p.palette:
		for x := range out {
			out[x] = 255
			if index := int(p.sample(row, x)); index < len(transparency) {
				out[x] = transparency[index]
			}
		}
	default:
		p.keyed(out, row, transparency)
	}
}

// keyed makes the pixels of one colour transparent. The colour has 16 bits for each sample.
func (p *pngFile) keyed(out, row, colour []byte) {
	for x := range out {
		out[x] = 255
		if len(colour) < 2*p.channels {
			continue
		}
		equal := true
		for c := range p.channels {
			i := x*p.channels + c
			if p.depth == 16 {
				equal = equal && row[2*i] == colour[2*c] && row[2*i+1] == colour[2*c+1]
			} else {
				equal = equal && p.sample(row, i) == colour[2*c+1]
			}
		}
		if equal {
			out[x] = 0
		}
	}
}

// sample returns a sample of at most 8 bits of a row.
func (p *pngFile) sample(row []byte, i int) byte {
	perByte := 8 / p.depth
	return row[i/perByte] >> (8 - p.depth*(1+i%perByte)) & byte(1<<p.depth-1)
}
