package imagecodec

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/zlib"

	"github.com/torchherd/torchherd/server/internal/colour"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// Metadata is what a response has beside its pixels. The zero value is nothing.
type Metadata struct {
	icc  []byte
	exif []byte // without a prefix
	xmp  []byte
}

// Metadata returns what the setting takes over of an Input's file, as copies.
func (c *Codec) Metadata(in *Input) Metadata {
	var m Metadata
	if c.config.Metadata == "" || c.config.Metadata == settings.NoMetadata {
		return m
	}
	d := &in.header.details
	if c.config.Color != settings.IgnoreColor {
		m.icc = colour.SRGB()
	} else if profile, err := d.profile(in.data); err == nil && isRGBProfile(profile) {
		m.icc = bytes.Clone(profile)
	}
	if c.config.Metadata == settings.MostOfMetadata {
		if e, ok := parseEXIF(d.exif); ok {
			m.exif = e.withoutPlaces(in.turned(), c.config.Color != settings.IgnoreColor)
		}
		m.xmp = withoutPlaces(d.xmp, in.turned())
	}
	return m
}

// turned reports whether the pixels are upright, whatever the file says.
func (in *Input) turned() bool { return in.header.orientation == in.header.details.orientation() }

// isRGBProfile reports whether an ICC profile can be that of a result.
func isRGBProfile(profile []byte) bool {
	const header, space = 128, 16
	return len(profile) > header && len(profile) <= colour.MaxProfile && string(profile[space:space+4]) == "RGB "
}

// memoryOfMetadata returns how many bytes the Metadata of a file has at most.
func (c *Codec) memoryOfMetadata(d *details) int64 {
	if c.config.Metadata == "" || c.config.Metadata == settings.NoMetadata {
		return 0
	}
	return int64(d.iccSize + 2*maxEXIF + maxXMP)
}

const (
	maxEXIF = 65533 - len(exifPrefix) // what a segment of a JPEG holds
	maxXMP  = 65533 - len(xmpPrefix)
)

// keptTags are the tags of the first directory that still hold for a result: who made the image, with what and when, and its
// resolution.
var keptTags = []uint16{0x010e, 0x010f, 0x0110, 0x011a, 0x011b, 0x0128, 0x0131, 0x0132, 0x013b, 0x8298}

const (
	tagColorSpace = 0xa001
	tagsOfSizes   = 0xa002 // and 0xa003
	tagOfInterop  = 0xa005
	tagMakerNote  = 0x927c // of unknown content, which may be a place
)

// withoutPlaces returns EXIF data anew, little or big-endian as it was: the kept tags, and EXIF's own without sizes and maker's
// notes. The directories of places and of the thumbnail, and whatever no directory leads to, aren't copied. nil: there is
// nothing, or too much.
func (e *exif) withoutPlaces(upright, converted bool) []byte {
	var first, own []exifField
	var pointer uint64
	bytesOf := func(v uint16) []byte {
		b := make([]byte, 2)
		e.order.PutUint16(b, v)
		return b
	}
	const short = 3
	e.each(e.first, func(f exifField) bool {
		switch {
		case f.tag == tagEXIF && len(f.value) > 0:
			pointer = e.integer(f)
		case f.tag == tagOrientation && !upright, slices.Contains(keptTags, f.tag):
			first = append(first, f)
		}
		return true
	})
	if upright {
		first = append(first, exifField{tagOrientation, short, 1, bytesOf(1)})
	}
	if pointer != 0 {
		e.each(pointer, func(f exifField) bool {
			switch f.tag {
			case tagMakerNote, tagOfInterop, tagsOfSizes, tagsOfSizes + 1:
			case tagColorSpace:
				if converted {
					f = exifField{tagColorSpace, short, 1, bytesOf(1)} // sRGB
				}
				own = append(own, f)
			default:
				own = append(own, f)
			}
			return true
		})
	}
	order := e.order.(binary.AppendByteOrder)
	out := order.AppendUint32(order.AppendUint16(slices.Clone(e.data[:2]), 42), 8)
	if len(own) > 0 {
		first = append(first, exifField{tagEXIF, 4, 1, make([]byte, 4)})
	}
	out = e.appendDirectory(out, first)
	if len(own) > 0 {
		const head, entry = 8, 12
		at := head + 2
		for order.(binary.ByteOrder).Uint16(out[at:]) != tagEXIF {
			at += entry
		}
		e.order.PutUint32(out[at+8:], uint32(len(out)))
		out = e.appendDirectory(out, own)
	}
	if len(out) > maxEXIF {
		return nil
	}
	return out
}

// appendDirectory appends a directory, and then the values that don't fit into its entries.
func (e *exif) appendDirectory(out []byte, fields []exifField) []byte {
	const entry, inline, classic = 12, 4, 12 // classic: the last type of TIFF 6.0
	fields = slices.DeleteFunc(fields, func(f exifField) bool { return f.kind > classic || len(f.value) == 0 })
	slices.SortStableFunc(fields, func(a, b exifField) int { return int(a.tag) - int(b.tag) })
	fields = slices.CompactFunc(fields, func(a, b exifField) bool { return a.tag == b.tag })
	order := e.order.(binary.AppendByteOrder)
	at := len(out) + 2 + entry*len(fields) + 4
	var values []byte
	out = order.AppendUint16(out, uint16(len(fields)))
	for _, f := range fields {
		out = order.AppendUint16(order.AppendUint16(out, f.tag), f.kind)
		out = order.AppendUint32(out, uint32(f.count))
		if len(f.value) <= inline {
			out = append(append(out, f.value...), make([]byte, inline-len(f.value))...)
			continue
		}
		out = order.AppendUint32(out, uint32(at+len(values)))
		values = append(append(values, f.value...), make([]byte, len(f.value)%2)...)
		if len(values) > maxEXIF {
			break // the caller refuses it
		}
	}
	return append(append(out, 0, 0, 0, 0), values...)
}

// places are words in the names of XMP's properties about places, in lower case (exif:GPSLatitude, photoshop:City,
// Iptc4xmpCore:Location, Iptc4xmpExt:LocationShown and others).
var places = []string{"gps", "location", "city", "country", "state", "latitude", "longitude", "geo"}

// withoutPlaces returns a copy of an XMP packet, with the orientation of the result; nil if the packet is too large or may name a
// place. To take out only the place would need all vocabularies.
func withoutPlaces(packet []byte, upright bool) []byte {
	if len(packet) == 0 || len(packet) > maxXMP {
		return nil
	}
	lower := bytes.ToLower(packet)
	for _, word := range places {
		if bytes.Contains(lower, []byte(word)) {
			return nil
		}
	}
	out := bytes.Clone(packet)
	if !upright {
		return out
	}
	const name = "tiff:Orientation"
	for rest := out; ; {
		at := bytes.Index(rest, []byte(name))
		if at < 0 {
			return out
		}
		rest = rest[at+len(name):]
		for i := range min(len(rest), 8) { // ="6", or >6<
			if rest[i] >= '1' && rest[i] <= '8' {
				rest[i] = '1'
				break
			}
		}
	}
}

// add returns a file of a format with the Metadata. p: the image that the file has.
func (m *Metadata) add(file []byte, format settings.Format, p Image) []byte {
	icc := m.icc
	if p.Channels < 3 {
		icc = nil // it is for RGB
	}
	if icc == nil && m.exif == nil && m.xmp == nil {
		return file
	}
	switch format {
	case settings.JPEG:
		return m.addToJPEG(file, icc)
	case settings.PNG:
		return m.addToPNG(file, icc)
	}
	return m.addToWebP(file, icc, p)
}

func (m *Metadata) addToJPEG(file, icc []byte) []byte {
	const start, app0, largest = 2, 0xe0, 65519 // bytes of a profile in a segment
	var segments []byte
	add := func(marker byte, parts ...[]byte) {
		content := slices.Concat(parts...)
		segments = append(segments, 0xff, marker, byte((len(content)+2)>>8), byte(len(content)+2))
		segments = append(segments, content...)
	}
	if m.exif != nil {
		add(0xe1, []byte(exifPrefix), m.exif)
	}
	if m.xmp != nil {
		add(0xe1, []byte(xmpPrefix), m.xmp)
	}
	count := (len(icc) + largest - 1) / largest
	number := 0
	for part := range slices.Chunk(icc, largest) {
		number++
		add(0xe2, []byte(iccPrefix), []byte{byte(number), byte(count)}, part)
	}
	at := start
	if file[at+1] == app0 {
		at += 2 + int(binary.BigEndian.Uint16(file[at+2:]))
	}
	return slices.Concat(file[:at], segments, file[at:])
}

func (m *Metadata) addToPNG(file, icc []byte) []byte {
	const header = 33 // the signature and IHDR
	var chunks []byte
	add := func(kind string, parts ...[]byte) {
		content := slices.Concat(parts...)
		at := len(chunks)
		chunks = append(binary.BigEndian.AppendUint32(chunks, uint32(len(content))), kind...)
		chunks = append(chunks, content...)
		chunks = binary.BigEndian.AppendUint32(chunks, crc32.ChecksumIEEE(chunks[at+4:]))
	}
	if icc != nil {
		var stream bytes.Buffer
		w := zlib.NewWriter(&stream)
		_, _ = w.Write(icc) // to memory
		_ = w.Close()
		add("iCCP", []byte("ICC Profile\x00\x00"), stream.Bytes())
	}
	if m.exif != nil {
		add("eXIf", m.exif)
	}
	if m.xmp != nil {
		add("iTXt", []byte("XML:com.adobe.xmp\x00\x00\x00\x00\x00"), m.xmp)
	}
	return slices.Concat(file[:header], chunks, file[header:])
}

// addToWebP makes the extended file format of a WebP, which has the frame alone or is extended already.
func (m *Metadata) addToWebP(file, icc []byte, p Image) []byte {
	const container, chunkHeader = 12, 8
	var flags byte
	if p.Channels == 4 {
		flags |= 1 << 4
	}
	chunk := func(kind string, content []byte, flag byte) []byte {
		if content == nil {
			return nil
		}
		flags |= flag
		out := binary.LittleEndian.AppendUint32([]byte(kind), uint32(len(content)))
		return append(append(out, content...), make([]byte, len(content)%2)...)
	}
	before := chunk("ICCP", icc, 1<<5)
	after := slices.Concat(chunk("EXIF", m.exif, 1<<3), chunk("XMP ", m.xmp, 1<<2))
	frame := file[container:]
	for len(frame) > chunkHeader && string(frame[:4]) != "VP8L" {
		size := int(binary.LittleEndian.Uint32(frame[4:]))
		frame = frame[min(len(frame), chunkHeader+size+size%2):]
	}
	w, h := p.Width-1, p.Height-1
	canvas := chunk("VP8X", []byte{flags, 0, 0, 0, byte(w), byte(w >> 8), byte(w >> 16), byte(h), byte(h >> 8), byte(h >> 16)}, 0)
	return chunk("RIFF", slices.Concat([]byte("WEBP"), canvas, before, frame, after), 0)
}
