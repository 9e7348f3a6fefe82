package imagecodec

import (
	"bytes"
	"encoding/binary"

	"github.com/torchherd/torchherd/torch"
)

// An exif is EXIF data: a TIFF structure (CIPA DC-008, section 4.5; TIFF 6.0, section 2). A TIFF file is one too, and so is a
// BigTIFF file, whose counts and offsets have 64 bits. Everything in it is read from bytes of a client, so nothing is
// trusted: what lies outside the data is absent.
type exif struct {
	data  []byte
	order binary.ByteOrder
	big   bool   // BigTIFF
	first uint64 // the offset of the first directory
}

// Tags of EXIF and TIFF.
const (
	tagOrientation = 0x0112
	tagXMP         = 0x02bc
	tagEXIF        = 0x8769 // the offset of the directory with EXIF's own tags
	tagICC         = 0x8773
)

// exifPrefix is before EXIF data in a JPEG, and before that of some encoders in other formats.
const exifPrefix = "Exif\x00\x00"

// parseEXIF reads the header of EXIF data, with or without prefixes, and reports whether it is one.
func parseEXIF(data []byte) (exif, bool) {
	for bytes.HasPrefix(data, []byte(exifPrefix)) { // some encoders write it twice
		data = data[len(exifPrefix):]
	}
	const header, bigHeader = 8, 16
	if len(data) < header {
		return exif{}, false
	}
	e := exif{data: data}
	switch string(data[:2]) {
	case "II":
		e.order = binary.LittleEndian
	case "MM":
		e.order = binary.BigEndian
	default:
		return exif{}, false
	}
	// Cameras that write another number than 42 are read, as by Pillow and libexif.
	if e.order.Uint16(data[2:]) == 43 {
		if len(data) < bigHeader {
			return exif{}, false
		}
		e.big, e.first = true, e.order.Uint64(data[8:])
	} else {
		e.first = uint64(e.order.Uint32(data[4:]))
	}
	return e, true
}

// An exifField is an entry of a directory.
type exifField struct {
	tag, kind uint16 // kind: the type of the numbers
	count     uint64
	value     []byte // of count numbers
}

// exifSizes are the sizes in bytes of the types of numbers, from 1 on. Those from 13 on are BigTIFF's.
var exifSizes = [...]uint64{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

// each calls do for each field of the directory at an offset whose value lies in the data, until it returns false.
func (e *exif) each(offset uint64, do func(f exifField) bool) {
	head, entry, inline := uint64(2), uint64(12), uint64(4) // bytes: the number of entries; an entry; a value within it
	if e.big {
		head, entry, inline = 8, 20, 8
	}
	size := uint64(len(e.data))
	if offset > size || size-offset < head {
		return
	}
	at := e.data[offset:]
	var entries uint64
	if e.big {
		entries = e.order.Uint64(at)
	} else {
		entries = uint64(e.order.Uint16(at))
	}
	at = at[head:]
	for entries = min(entries, uint64(len(at))/entry); entries > 0; entries, at = entries-1, at[entry:] {
		f := exifField{tag: e.order.Uint16(at), kind: e.order.Uint16(at[2:]), count: e.number(at[4:])}
		if int(f.kind) >= len(exifSizes) || f.count > size {
			continue
		}
		length, from := f.count*exifSizes[f.kind], at[entry-inline:entry]
		if length > inline {
			where := e.number(from)
			if where > size || size-where < length {
				continue
			}
			from = e.data[where:]
		}
		f.value = from[:length]
		if !do(f) {
			return
		}
	}
}

// number reads a count or an offset.
func (e *exif) number(b []byte) uint64 {
	if e.big {
		return e.order.Uint64(b)
	}
	return uint64(e.order.Uint32(b))
}

// find returns the first field with a tag in the first directory.
func (e *exif) find(tag uint16) (found exifField, ok bool) {
	e.each(e.first, func(f exifField) bool {
		if ok = f.tag == tag && len(f.value) > 0; ok {
			found = f
		}
		return !ok
	})
	return found, ok
}

// integer returns the first number of a field, whatever the type that an encoder chose; 0 if it is no integer.
func (e *exif) integer(f exifField) uint64 {
	switch v := f.value; f.kind {
	case 1, 6, 7:
		return uint64(v[0])
	case 3, 8:
		return uint64(e.order.Uint16(v))
	case 4, 9, 13:
		return uint64(e.order.Uint32(v))
	case 16, 17, 18:
		return e.order.Uint64(v)
	}
	return 0
}

// orientation returns the orientation, and whether the data states one. One that EXIF doesn't have is Upright.
func (e *exif) orientation() (torch.Orientation, bool) {
	f, ok := e.find(tagOrientation)
	if !ok {
		return torch.Upright, false
	}
	if v := e.integer(f); v >= 1 && v <= 8 {
		return torch.Orientation(v), true
	}
	return torch.Upright, true
}

// xmpOrientation returns the value of tiff:Orientation in an XMP packet (XMP specification part 2, section 3.3), which is an
// attribute or an element; Upright if there is none.
func xmpOrientation(packet []byte) torch.Orientation {
	const name = "tiff:Orientation"
	for {
		at := bytes.Index(packet, []byte(name))
		if at < 0 {
			return torch.Upright
		}
		packet = bytes.TrimLeft(packet[at+len(name):], " \t\r\n")
		value := packet
		if len(value) > 0 && value[0] == '=' {
			value = bytes.TrimLeft(value[1:], " \t\r\n")
		}
		if len(value) < 3 || value[0] != '"' && value[0] != '\'' && value[0] != '>' {
			continue
		}
		value = bytes.TrimLeft(value[1:], " \t\r\n")
		if len(value) < 2 || value[0] < '1' || value[0] > '8' || value[1] >= '0' && value[1] <= '9' {
			continue
		}
		return torch.Orientation(value[0] - '0')
	}
}
