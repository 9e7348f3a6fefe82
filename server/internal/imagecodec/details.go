package imagecodec

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zlib"

	"github.com/torchherd/torchherd/server/internal/colour"
	"github.com/torchherd/torchherd/torch"
)

// details are what a file states beside its pixels. They refer to the file. What is damaged is left out: it is never a reason
// to refuse an image.
type details struct {
	exif, xmp []byte
	// transparency is the content of a PNG's tRNS: the alpha of colours of the palette, or a colour that is transparent.
	transparency []byte

	// An ICC profile: whole or deflated, or in pieces, which profile joins.
	icc            []byte
	iccForm        iccForm
	iccSize        int    // of the profile, in bytes, at most
	iccHead        []byte // its beginning: colour.HeadOfProfile bytes, or less
	srgb           bool   // said to be sRGB
	cicp           [2]uint8
	gamma          float64
	chromaticities *colour.Primaries
}

// An iccForm is how a file holds an ICC profile.
type iccForm int

const (
	iccWhole    iccForm = iota // in icc
	iccDeflated                // in icc, a zlib stream
	iccSegments                // in a JPEG's segments
	iccBlocks                  // in the blocks of a GIF, which begin at icc
)

// orientation returns how the image is turned: as EXIF says, else as XMP says.
func (d *details) orientation() torch.Orientation {
	if e, ok := parseEXIF(d.exif); ok {
		if o, stated := e.orientation(); stated {
			return o
		}
	}
	return xmpOrientation(d.xmp)
}

const (
	xmpPrefix = "http://ns.adobe.com/xap/1.0/\x00"
	iccPrefix = "ICC_PROFILE\x00" // then the number of the segment, from 1, and of all
)

// jpegDetails reads the segments before the first scan.
func jpegDetails(data []byte) details {
	var d details
	eachSegment(data, func(marker byte, segment []byte) bool {
		if marker == 0xe2 && bytes.HasPrefix(segment, []byte(iccPrefix)) {
			d.iccForm = iccSegments
			d.iccSize += max(0, len(segment)-len(iccPrefix)-2)
			if at := len(iccPrefix); len(segment) > at && segment[at] == 1 && d.iccHead == nil {
				d.iccHead = headOf(segment[min(len(segment), at+2):])
			}
		}
		if marker != 0xe1 {
			return true
		}
		// The first of each kind counts.
		if d.exif == nil && bytes.HasPrefix(segment, []byte(exifPrefix)) {
			d.exif = segment
		}
		if d.xmp == nil && bytes.HasPrefix(segment, []byte(xmpPrefix)) {
			d.xmp = segment[len(xmpPrefix):]
		}
		return true
	})
	return d
}

// eachSegment calls do for each segment of a JPEG before its first scan, until it returns false.
func eachSegment(data []byte, do func(marker byte, segment []byte) bool) {
	const (
		startOfScan, endOfImage = 0xda, 0xd9
		first, last             = 0xc0, 0xfe // the markers of segments; those from 0xd0 to 0xd8 have none
	)
	for rest := data[2:]; ; {
		at := bytes.IndexByte(rest, 0xff) // as libjpeg, whatever lies between two segments
		if at < 0 {
			return
		}
		for at < len(rest) && rest[at] == 0xff {
			at++
		}
		if len(rest)-at < 3 {
			return
		}
		marker := rest[at]
		rest = rest[at+1:]
		switch {
		case marker == startOfScan || marker == endOfImage:
			return
		case marker < first || marker > last || marker >= 0xd0 && marker <= 0xd8:
			continue
		}
		length := int(binary.BigEndian.Uint16(rest))
		if length < 2 || length > len(rest) {
			return
		}
		if !do(marker, rest[2:length]) {
			return
		}
		rest = rest[length:]
	}
}

// pngDetails reads the chunks of a PNG. EXIF data is in a chunk of its own (PNG specification, third edition, section
// 11.3.3.1), and in the text that older ImageMagick and exiftool write.
func pngDetails(data []byte) details {
	var d details
	var rawKind string
	var raw []byte
	eachChunk(data, func(kind string, chunk []byte, beforePixels bool) {
		if beforePixels {
			d.addPNGColours(kind, chunk)
		}
		switch kind {
		case "eXIf":
			if d.exif == nil {
				d.exif = chunk
			}
		case "tEXt", "zTXt", "iTXt":
			switch keyword, _, _ := bytes.Cut(chunk, []byte{0}); string(keyword) {
			case "Raw profile type exif", "Raw profile type APP1":
				if raw == nil {
					rawKind, raw = kind, chunk
				}
			case "XML:com.adobe.xmp":
				if d.xmp == nil {
					d.xmp = pngText(kind, chunk)
				}
			}
		}
	})
	if d.exif == nil && raw != nil {
		d.exif = rawProfile(pngText(rawKind, raw))
	}
	return d
}

// eachChunk calls do for each chunk of a PNG that isn't a part of the pixels and has a right checksum.
func eachChunk(data []byte, do func(kind string, chunk []byte, beforePixels bool)) {
	const signature, before, after = 8, 8, 4 // bytes; before and after a chunk
	beforePixels := true
	for rest := data[signature:]; len(rest) >= before+after; {
		length := int(binary.BigEndian.Uint32(rest))
		if length > len(rest)-before-after {
			return
		}
		end := before + length
		kind := rest[4:before]
		switch string(kind) {
		case "IDAT":
			beforePixels = false
		case "IEND":
			return
		default:
			if crc32.ChecksumIEEE(rest[4:end]) == binary.BigEndian.Uint32(rest[end:]) {
				do(string(kind), rest[before:end], beforePixels)
			}
		}
		rest = rest[end+after:]
	}
}

// maxText is the largest text that is inflated: EXIF data in a segment of a JPEG in hexadecimal digits, with room to spare.
// maxDeflated is the largest deflated size, which bounds the time.
const (
	maxText     = 256 << 10
	maxDeflated = 128 << 10
)

// pngText returns the text of a text chunk; nil if it can't be read.
func pngText(kind string, chunk []byte) []byte {
	_, text, found := bytes.Cut(chunk, []byte{0})
	if !found {
		return nil
	}
	deflated := kind == "zTXt"
	skip := 0
	switch kind {
	case "zTXt":
		skip = 1 // the method
	case "iTXt":
		skip = 2 // a flag and the method
		deflated = len(text) > 0 && text[0] == 1
	}
	if len(text) < skip {
		return nil
	}
	text = text[skip:]
	if kind == "iTXt" {
		for range 2 { // a language, and the keyword in that language
			if _, text, found = bytes.Cut(text, []byte{0}); !found {
				return nil
			}
		}
	}
	if !deflated {
		return text
	}
	return inflated(text, maxDeflated, maxText)
}

// inflated returns the beginning of a zlib stream, at most `largest` bytes; nil if the stream is longer than maxDeflated or
// broken from its start.
func inflated(stream []byte, longest, largest int) []byte {
	if len(stream) > longest {
		return nil
	}
	r, err := zlib.NewReader(bytes.NewReader(stream))
	if err != nil {
		return nil
	}
	out, _ := io.ReadAll(io.LimitReader(r, int64(largest))) // what was read before an error is used
	return out
}

// rawProfile reads a profile as ImageMagick writes it into a text: an empty line, its name, its length, and hexadecimal digits.
func rawProfile(text []byte) []byte {
	const lines = 3
	for range lines {
		_, after, found := bytes.Cut(text, []byte{'\n'})
		if !found {
			return nil
		}
		text = after
	}
	digits := bytes.Join(bytes.Fields(text), nil)
	profile := make([]byte, len(digits)/2)
	n, _ := hex.Decode(profile, digits[:len(digits)/2*2])
	return profile[:n]
}

// webpDetails reads the chunks of a WebP. They count if the file's flags announce them, as for libwebp.
func webpDetails(data []byte) details {
	const (
		container, chunkHeader = 12, 8
		hasEXIF, hasXMP        = 1 << 3, 1 << 2
		hasICC                 = 1 << 5
	)
	var d details
	if len(data) < container+chunkHeader+1 || string(data[container:container+4]) != "VP8X" {
		return d
	}
	flags := data[container+chunkHeader]
	for rest := data[container:]; len(rest) >= chunkHeader; {
		size := int(binary.LittleEndian.Uint32(rest[4:]))
		if size > len(rest)-chunkHeader {
			return d
		}
		chunk := rest[chunkHeader:][:size]
		switch kind := rest[:4]; {
		case string(kind) == "EXIF" && flags&hasEXIF != 0 && d.exif == nil:
			d.exif = chunk
		case string(kind) == "XMP " && flags&hasXMP != 0 && d.xmp == nil:
			d.xmp = chunk
		case string(kind) == "ICCP" && flags&hasICC != 0 && d.icc == nil:
			d.icc, d.iccSize, d.iccHead = chunk, len(chunk), headOf(chunk)
		}
		rest = rest[min(len(rest), chunkHeader+size+size%2):]
	}
	return d
}

// tiffDetails reads the fields of a TIFF, which is EXIF data by itself.
func tiffDetails(data []byte) details {
	d := details{exif: data}
	if e, ok := parseEXIF(data); ok {
		if f, ok := e.find(tagXMP); ok {
			d.xmp = f.value
		}
		if f, ok := e.find(tagICC); ok {
			d.icc, d.iccSize, d.iccHead = f.value, len(f.value), headOf(f.value)
		}
	}
	return d
}
