package imagecodec

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zlib"

	"github.com/torchherd/torchherd/server/internal/colour"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// Colours are converted to sRGB after the resize. That is as exact, costs as much as the result has pixels and not as the file
// has, and leaves the decoders as they are. An average of pixels differs a little from that of converted ones. What a resize of
// RGB of 8 bits can't take, samples of more bits and the inks of a TIFF, is converted row by row before it, and so is what is put
// over a colour.

// addPNGColours reads a chunk about colours (PNG specification, third edition, sections 11.3.1 and 11.3.2). Of several of a kind the first
// counts.
func (d *details) addPNGColours(kind string, chunk []byte) {
	switch kind {
	case "tRNS":
		d.transparency = chunk
	case "cICP":
		// RGB of the full range: what a PNG can hold.
		if len(chunk) == 4 && chunk[2] == 0 && chunk[3] == 1 && d.cicp == [2]uint8{} {
			d.cicp = [2]uint8{chunk[0], chunk[1]}
		}
	case "iCCP":
		_, stream, found := bytes.Cut(chunk, []byte{0}) // a name, and the method
		if found && len(stream) > 1 && d.icc == nil {
			d.icc, d.iccForm = stream[1:], iccDeflated
			d.iccHead = inflated(d.icc[:min(len(d.icc), maxDeflated)], maxDeflated, colour.HeadOfProfile)
			if len(d.iccHead) >= 4 {
				d.iccSize = int(min(binary.BigEndian.Uint32(d.iccHead), colour.MaxProfile)) // as it states
			}
		}
	case "sRGB":
		d.srgb = true
	case "gAMA":
		if len(chunk) == 4 && d.gamma == 0 {
			d.gamma = float64(binary.BigEndian.Uint32(chunk)) / pngUnit
		}
	case "cHRM":
		if len(chunk) == 32 && d.chromaticities == nil {
			var c [8]float64
			for i := range c {
				c[i] = float64(binary.BigEndian.Uint32(chunk[4*i:])) / pngUnit
			}
			d.chromaticities = &colour.Primaries{
				White: colour.Chromaticity{X: c[0], Y: c[1]}, Red: colour.Chromaticity{X: c[2], Y: c[3]},
				Green: colour.Chromaticity{X: c[4], Y: c[5]}, Blue: colour.Chromaticity{X: c[6], Y: c[7]},
			}
		}
	}
}

// pngUnit is what 1 is in gAMA and cHRM.
const pngUnit = 100000

// statesColours reports whether a file may state a colour space.
func (d *details) statesColours() bool {
	return d.iccSize > 0 || d.cicp != [2]uint8{} || d.gamma != 0 && !d.srgb
}

// space returns the colour space that a file states. PNG's chunks have an order: cICP, iCCP, sRGB, and then gAMA with cHRM.
func (d *details) space(data []byte) (colour.Space, error) {
	switch {
	case d.cicp != [2]uint8{}:
		return colour.Space{Primaries: d.cicp[0], Transfer: d.cicp[1]}, nil
	case d.iccSize > 0:
		profile, err := d.profile(data)
		return colour.Space{Profile: profile}, err
	case d.gamma != 0 && !d.srgb:
		return colour.Space{Gamma: d.gamma, Chromaticities: d.chromaticities}, nil
	}
	return colour.Space{}, nil
}

var errProfile = errors.New("the ICC profile is incomplete or too large")

// profile returns the ICC profile of a file.
func (d *details) profile(data []byte) ([]byte, error) {
	switch d.iccForm {
	case iccDeflated:
		r, err := zlib.NewReader(bytes.NewReader(d.icc))
		if err != nil {
			return nil, err
		}
		profile := make([]byte, d.iccSize)
		if _, err := io.ReadFull(r, profile); err != nil {
			return nil, err
		}
		return profile, nil
	case iccSegments:
		return joinedSegments(data, d.iccSize)
	case iccBlocks:
		return joinedBlocks(d.icc)
	}
	return d.icc, nil
}

// joinedSegments returns the ICC profile in the segments of a JPEG (ICC.1:2022, annex B.4). Their numbers tell their order.
func joinedSegments(data []byte, size int) ([]byte, error) {
	if size > colour.MaxProfile {
		return nil, errProfile
	}
	const numbers = 2
	var parts [256][]byte
	count := 0
	eachSegment(data, func(marker byte, segment []byte) bool {
		if marker == 0xe2 && bytes.HasPrefix(segment, []byte(iccPrefix)) && len(segment) > len(iccPrefix)+numbers {
			part := segment[len(iccPrefix):]
			if parts[part[0]] == nil {
				parts[part[0]], count = part[numbers:], int(part[1])
			}
		}
		return true
	})
	if count == 0 || count == 1 && parts[1] == nil {
		return nil, errProfile
	}
	if count == 1 { // nearly all have one
		return parts[1], nil
	}
	var profile []byte
	for _, part := range parts[1 : 1+count] {
		if part == nil {
			return nil, errProfile
		}
		profile = append(profile, part...)
	}
	return profile, nil
}

// gifDetails finds an ICC profile before the first image of a GIF, in an application extension (GIF89a, section 26, and
// ICC.1:2022, annex B.3).
func gifDetails(data []byte) details {
	const (
		screen, flagsAt   = 13, 10
		extension, ofICC  = 0x21, "\x0bICCRGBG1012"
		application, head = 0xff, 2
	)
	var d details
	if len(data) < screen {
		return d
	}
	rest := data[screen:]
	if flags := data[flagsAt]; flags&0x80 != 0 {
		rest = rest[min(len(rest), 3<<(flags&7+1)):]
	}
	for len(rest) > head && rest[0] == extension {
		kind := rest[1]
		rest = rest[head:]
		isICC := kind == application && bytes.HasPrefix(rest, []byte(ofICC)) && d.icc == nil
		if isICC {
			d.icc, d.iccForm = rest[len(ofICC):], iccBlocks
		}
		before := len(rest)
		for len(rest) > 0 && rest[0] != 0 {
			rest = rest[min(len(rest), 1+int(rest[0])):]
		}
		if isICC {
			d.iccSize = before - len(rest)
			d.iccHead = headOf(d.icc[min(len(d.icc), 1):min(len(d.icc), 256)]) // the first block
		}
		rest = rest[min(len(rest), 1):]
	}
	return d
}

// joinedBlocks returns the content of a GIF's blocks, which each begin with their size, up to an empty one.
func joinedBlocks(blocks []byte) ([]byte, error) {
	var profile []byte
	for len(blocks) > 0 && blocks[0] != 0 {
		n := int(blocks[0])
		if n >= len(blocks) || len(profile) > colour.MaxProfile {
			return nil, errProfile
		}
		profile, blocks = append(profile, blocks[1:1+n]...), blocks[1+n:]
	}
	return profile, nil
}

// convertsColours reports whether the colours of an Input may have to be converted.
func (c *Codec) convertsColours(in *Input) bool {
	return c.config.Color != settings.IgnoreColor && in.header.details.statesColours()
}

// convertsRows reports whether the colours of an Input, if they are converted, are so before the resize: those that RGB of 8 bits
// doesn't hold, and those that are put over another colour, which is sRGB.
func (c *Codec) convertsRows(in *Input) bool {
	return in.header.deep || c.convertsColours(in) && c.hasAlpha(in) && !c.keepsAlpha(in)
}

func headOf(profile []byte) []byte { return profile[:min(len(profile), colour.HeadOfProfile)] }

// hlg is the number of the transfer characteristics of HLG (ITU-T H.273).
const hlg = 18

// addWorkOfColours adds what the conversion of an Input's colours costs, by the pixels of its result, or of the image as it was
// sent, if the result is made of that or its colours are converted before the resize.
//
// Whoever accepts images of a size accepts the conversion of their colours, which costs less than a model, up to the 24
// megapixels of many cameras.
func (c *Codec) addWorkOfColours(in *Input) {
	const usual = 24e6
	d := &in.header.details
	per := perShaped
	switch {
	case c.splitsInks(in) || in.header.samples() == int(colour.CMYK):
		per = perInks
	case d.cicp[1] == hlg: // a power for each pixel
		per = perTables
	case d.iccSize > 0 && colour.HasTables(d.iccHead, d.iccSize):
		per = perTables
	}
	if in.header.deep { // places between levels are computed for each pixel
		per += per / 2
	}
	pixels := in.width * in.height
	if c.config.Output.NeedsSent() || c.convertsRows(in) {
		pixels = in.header.width * in.header.height
	}
	in.header.work += picoseconds(pixels) * per
	in.granted += picoseconds(min(pixels, usual)) * per
}

// memoryOfColours returns how many bytes it takes at most to find how colours are converted.
func memoryOfColours(d *details) int64 {
	return int64(d.iccSize) + colour.MemoryOfProfile(int64(d.iccSize))
}

// transform returns how the Input's colours are converted; nil: not at all. A profile that can't be used is logged, at a
// bounded rate, and the image is used as if it had none. The error is the context's cause.
func (c *Codec) transform(ctx context.Context, in *Input) (*colour.Transform, error) {
	if !c.convertsColours(in) {
		return nil, nil
	}
	channels := colour.RGB
	switch {
	case in.header.gray || in.header.avif != nil && in.header.avif.samples == 4: // no chroma
		channels = colour.Gray
	case in.header.jpeg.Channels == int(colour.CMYK) || in.header.samples() == int(colour.CMYK):
		channels = colour.CMYK
	}
	space, err := in.header.details.space(in.data)
	var t *colour.Transform
	if err == nil && space.Stated() {
		t, err = c.colours.Transform(ctx, space, channels)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		c.log.Warn().Err(err).Str("format", in.format.name).Msg("colour space ignored")
		return nil, nil
	}
	return t, nil
}

// pixelsAtATime is how many pixels are converted before the context is looked at.
const pixelsAtATime = 1 << 16

// convert converts the pixels of an image to sRGB. black: that of inks, or nil.
func convert(ctx context.Context, t *colour.Transform, p Image, black []byte) error {
	if t == nil {
		return nil
	}
	for rest := p.Pixels; len(rest) > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := rest[:min(len(rest), 3*pixelsAtATime)]
		if black != nil {
			t.ApplyInks(part, part, black[:len(part)])
			black = black[len(part):]
		} else {
			t.Apply(part)
		}
		rest = rest[len(part):]
	}
	return nil
}
