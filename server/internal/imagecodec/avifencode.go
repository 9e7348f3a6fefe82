package imagecodec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tetratelabs/wazero/api"
)

// AVIF out: libaom makes the AV1 data of the colours, and of an alpha, and this file puts the boxes around them (ISO/IEC 14496-12,
// 23008-12, and AVIF 1.1).

// maxAVIFPixels bounds the time of an encode: it takes 0.3 to 0.6 µs of one core for each pixel, 0.9 at the most.
const maxAVIFPixels = 24 << 20

// memoryOfAV1 returns how many bytes of WebAssembly memory libaom needs at most, with the pixels: it was measured with noise of
// several sizes, without loss. It pads the image.
func memoryOfAV1(width, height, channels int) int64 {
	const fixed, padding, ofPixel = 5 << 20, 32, 34
	return fixed + int64(width+padding)*int64(height+padding)*int64(ofPixel+channels)
}

// The primary item has the colours. The others follow if there is something for them.
const (
	colourItem = iota + 1
	alphaItem
	exifItem
	xmpItem
)

// encodeAVIF encodes grayscale, RGB or RGBA. The alpha loses nothing.
func encodeAVIF(ctx context.Context, p Image, quality int, m Metadata) ([]byte, error) {
	// As libavif's scale, which Pillow's is: 0 to 63, rounded.
	quantizer := ((100-quality)*63 + 50) / 100
	f := avifWriter{width: p.Width, height: p.Height, icc: m.icc}
	channels := min(p.Channels, 3) // of colours
	colours, err := encodeAV1(ctx, p, 0, channels, quantizer)
	if err != nil {
		return nil, err
	}
	f.addImage(colourItem, colours, channels)
	if p.Channels == 4 {
		alpha, err := encodeAV1(ctx, p, 3, 1, 0)
		if err != nil {
			return nil, err
		}
		f.addImage(alphaItem, alpha, 1)
		f.refer("auxl", alphaItem)
	}
	if m.exif != nil {
		f.add(exifItem, "Exif", "", slices.Concat([]byte{0, 0, 0, 0}, m.exif))
		f.refer("cdsc", exifItem)
	}
	if m.xmp != nil {
		f.add(xmpItem, "mime", "application/rdf+xml\x00", m.xmp)
		f.refer("cdsc", xmpItem)
	}
	return f.file(), nil
}

// encodeAV1 returns AV1 data of the image's bytes from the one at `from` of each pixel on: of colours, 3 or 1.
func encodeAV1(ctx context.Context, p Image, from, colours, quantizer int) ([]byte, error) {
	host := &wasmHost{left: math.MaxInt64}
	var data []byte
	err := avifEncoder.run(ctx, host, memoryOfAV1(p.Width, p.Height, p.Channels), func(ctx context.Context, instance api.Module) error {
		at, err := allocateIn(ctx, instance, len(p.Pixels))
		if err != nil {
			return err
		}
		instance.Memory().Write(at, p.Pixels)
		status, err := call(ctx, instance, "encode", uint64(at)+uint64(from), uint64(p.Width), uint64(p.Height), uint64(p.Channels), uint64(colours), uint64(quantizer))
		if err != nil {
			return err
		}
		if status != wasmDone {
			return fmt.Errorf("libaom: status %d", status)
		}
		start, err := call(ctx, instance, "data")
		if err != nil {
			return err
		}
		size, err := call(ctx, instance, "size")
		if err != nil {
			return err
		}
		result, ok := instance.Memory().Read(start, size)
		if !ok {
			return errTrap
		}
		data = slices.Clone(result)
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("imagecodec: encoding AVIF of %dx%d: %w", p.Width, p.Height, err)
	}
	return withoutDelimiter(data)
}

// withoutDelimiter returns AV1 data without the temporal delimiter before it, which the container stands for.
func withoutDelimiter(data []byte) ([]byte, error) {
	const delimiter, header, smallest = "\x12\x00", 0x0a, 6 // the two OBUs' headers, with sizes; bytes
	if len(data) < smallest || string(data[:2]) != delimiter || data[2] != header {
		return nil, errors.New("imagecodec: libaom's data don't begin with a sequence header")
	}
	return data[2:], nil
}

// An avifWriter collects the items of a file and their properties.
type avifWriter struct {
	width, height int
	icc           []byte

	infos, places, references []byte
	properties, associations  []byte
	items, images, property   int // how many there are
	contents                  [][]byte
}

// isoBox returns a box.
func isoBox(kind string, parts ...[]byte) []byte {
	content := slices.Concat(parts...)
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 8+len(content)), uint32(8+len(content)))
	return append(append(out, kind...), content...)
}

// fullBox returns a box with a version, and without flags.
func fullBox(kind string, version byte, parts ...[]byte) []byte {
	return isoBox(kind, append([][]byte{{version, 0, 0, 0}}, parts...)...)
}

func big16(numbers ...int) []byte {
	var out []byte
	for _, n := range numbers {
		out = binary.BigEndian.AppendUint16(out, uint16(n))
	}
	return out
}

func big32(numbers ...int) []byte {
	var out []byte
	for _, n := range numbers {
		out = binary.BigEndian.AppendUint32(out, uint32(n))
	}
	return out
}

// add adds an item. media: the type of the content of a "mime" item.
func (f *avifWriter) add(number int, kind, media string, content []byte) {
	f.items++
	f.infos = append(f.infos, fullBox("infe", 2, big16(number, 0), []byte(kind+"\x00"+media))...)
	f.contents = append(f.contents, content)
	f.places = append(f.places, big16(number, 0, 1)...) // the file itself, and one piece, whose place `file` fills in
	f.places = append(f.places, make([]byte, 8)...)
}

// refer adds a reference from an item to the primary one.
func (f *avifWriter) refer(kind string, from int) {
	f.references = append(f.references, isoBox(kind, big16(from, 1, colourItem))...)
}

// addImage adds an image of so many channels.
func (f *avifWriter) addImage(number int, data []byte, channels int) {
	f.add(number, "av01", "", data)
	f.images++
	const (
		marker      = 0x81 // and version 1
		subsampling = 0x0c // in both directions
		monochrome  = 0x10
		essential   = 0x80
	)
	// A still picture's sequence header: the profile (3 bits), two bits that are set, and the level (5 bits).
	profile, level := data[2]>>5, (data[2]&7)<<2|data[3]>>6
	form := byte(subsampling)
	if channels == 1 {
		form |= monochrome
	}
	depths := append([]byte{byte(channels)}, slices.Repeat([]byte{8}, channels)...)
	properties := [][]byte{
		isoBox("av1C", []byte{marker, profile<<5 | level, form, 0}),
		fullBox("ispe", 0, big32(f.width, f.height)),
		fullBox("pixi", 0, depths),
	}
	if number == alphaItem {
		properties = append(properties, fullBox("auxC", 0, []byte("urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\x00")))
	} else {
		properties = append(properties, f.colours()...)
	}
	f.associations = append(append(f.associations, big16(number)...), byte(len(properties)))
	for i, property := range properties {
		f.property++
		mark := byte(f.property)
		if i == 0 {
			mark |= essential
		}
		f.associations = append(f.associations, mark)
		f.properties = append(f.properties, property...)
	}
}

// colours returns the properties that tell the colour space: sRGB, or that of the profile.
func (f *avifWriter) colours() [][]byte {
	const bt709, unspecified, srgb, bt601, full = 1, 2, 13, 6, 0x80
	if f.icc == nil {
		return [][]byte{isoBox("colr", []byte("nclx"), big16(bt709, srgb, bt601), []byte{full})}
	}
	return [][]byte{
		isoBox("colr", []byte("prof"), f.icc),
		isoBox("colr", []byte("nclx"), big16(unspecified, unspecified, bt601), []byte{full}),
	}
}

func (f *avifWriter) file() []byte {
	const ofPlace, placeAt = 14, 6 // bytes of an item's place; where its offset and length are
	kind := isoBox("ftyp", []byte("avif\x00\x00\x00\x00avifmif1miaf"))
	meta := func() []byte {
		boxes := [][]byte{
			fullBox("hdlr", 0, big32(0), []byte("pict"), make([]byte, 13)),
			fullBox("pitm", 0, big16(colourItem)),
			fullBox("iloc", 0, []byte{0x44, 0}, big16(f.items), f.places),
			fullBox("iinf", 0, big16(f.items), f.infos),
			isoBox("iprp", isoBox("ipco", f.properties), fullBox("ipma", 0, big32(f.images), f.associations)),
		}
		if len(f.references) > 0 {
			boxes = append(boxes, fullBox("iref", 0, f.references))
		}
		return fullBox("meta", 0, boxes...)
	}
	at := len(kind) + len(meta()) + 8 // the header of mdat
	for i, content := range f.contents {
		copy(f.places[ofPlace*i+placeAt:], big32(at, len(content)))
		at += len(content)
	}
	return slices.Concat(kind, meta(), isoBox("mdat", f.contents...))
}
