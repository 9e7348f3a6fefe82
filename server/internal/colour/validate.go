package colour

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
)

// The engine allocates what a profile announces before it looks whether the profile has it, and inverts a curve that isn't
// monotonic in quadratic time. Such profiles are refused here, by ICC.1:2022: the tag table (section 7.3), curves (10.6),
// lut16Type (10.10) and lutAToBType (10.12).
const (
	maxTags = 64 // so that HeadOfProfile has them all
	// maxCurve is the largest number of entries of a curve: the most that lut16Type allows.
	maxCurve = 4096
	// maxInversion limits the sum of the squares of the entries of curves that aren't monotonic: 40 ms.
	maxInversion = 1 << 26
)

// HeadOfProfile is the size in bytes of the part of a profile that has its table of tags.
const HeadOfProfile = 1 << 10

// HasTables reports whether a profile, of which this is the beginning, may have tables of colours, whose Transform costs several
// times that of a matrix. size: of the whole profile.
func HasTables(head []byte, size int) bool {
	const space = 16
	if len(head) < min(size, HeadOfProfile) || len(head) < space+4 {
		return true
	}
	return bytes.Contains(head, []byte("A2B")) || string(head[space:space+4]) == "CMYK"
}

var errICC = errors.New("colour: broken ICC profile")

// validate returns an error for a profile that would cost the engine more than its size says.
func validate(profile []byte) error {
	const header, count, entry = 128, 4, 12 // bytes
	if len(profile) < header+count {
		return errICC
	}
	tags := uint64(binary.BigEndian.Uint32(profile[header:]))
	start := uint64(header + count)
	if tags > maxTags || start+tags*entry > uint64(len(profile)) {
		return errICC
	}
	inversion := 0
	seen := map[uint64]bool{}
	for table := profile[start : start+tags*entry]; len(table) > 0; table = table[entry:] {
		at, size := uint64(binary.BigEndian.Uint32(table[4:])), uint64(binary.BigEndian.Uint32(table[8:]))
		if at < start+tags*entry || at+size > uint64(len(profile)) {
			return errICC
		}
		if place := at<<32 | size; size >= 12 && !seen[place] {
			seen[place] = true
			cost, okay := costOfTag(profile[at : at+size])
			if inversion = min(inversion+cost, math.MaxInt32); !okay {
				return errICC
			}
		}
	}
	if inversion > maxInversion {
		return errors.New("colour: an ICC profile with curves that aren't monotonic")
	}
	return nil
}

// costOfTag returns the sum of the squares of the entries of a tag's curves that aren't monotonic, and whether the tag has the
// tables that it announces. The tag has at least 12 bytes.
func costOfTag(tag []byte) (cost int, okay bool) {
	switch kind := string(tag[:4]); kind {
	case "curv":
		return costOfCurves(tag)
	case "mAB ", "mBA ":
		const clutAt, precisionAt = 24, 16
		if len(tag) < clutAt+4 {
			return 0, false
		}
		if clut := uint64(binary.BigEndian.Uint32(tag[clutAt:])); clut > 0 {
			if clut+precisionAt >= uint64(len(tag)) || tag[clut+precisionAt] < 1 || tag[clut+precisionAt] > 2 {
				return 0, false
			}
		}
		return costOfCurves(tag)
	case "mft2":
		const tables = 52
		if len(tag) < tables {
			return 0, false
		}
		inputs, outputs, side := int(tag[8]), int(tag[9]), int(tag[10])
		before, after := int(binary.BigEndian.Uint16(tag[48:])), int(binary.BigEndian.Uint16(tag[50:]))
		if inputs > 4 || outputs > 4 || before > maxCurve || after > maxCurve {
			return 0, false
		}
		clut := 2 * outputs
		for range inputs {
			clut *= side
		}
		at := tables
		for _, part := range [][3]int{{inputs, before, 0}, {outputs, after, clut}} {
			at += part[2]
			for range part[0] {
				if at+2*part[1] > len(tag) {
					return 0, false
				}
				cost += costOfCurve(tag[at : at+2*part[1]])
				at += 2 * part[1]
			}
		}
	}
	return cost, true
}

// costOfCurves is costOfTag for curves anywhere in a tag.
func costOfCurves(tag []byte) (cost int, okay bool) {
	const head = 12
	for {
		at := bytes.Index(tag, []byte("curv"))
		if at < 0 || len(tag)-at < head {
			return cost, true
		}
		entries := uint64(binary.BigEndian.Uint32(tag[at+8:]))
		if tag = tag[at+head:]; entries > maxCurve || 2*entries > uint64(len(tag)) {
			return 0, false
		}
		cost += costOfCurve(tag[:2*entries])
	}
}

func costOfCurve(entries []byte) int {
	n := len(entries) / 2
	for i := 2; i < len(entries); i += 2 {
		if binary.BigEndian.Uint16(entries[i:]) < binary.BigEndian.Uint16(entries[i-2:]) {
			return n * n
		}
	}
	return 0
}
