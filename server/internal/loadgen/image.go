package loadgen

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"sync/atomic"

	"golang.org/x/image/webp"
)

// A format is an image format that responses may have.
type format struct {
	name       string
	matches    func(body []byte) bool               // by the first bytes
	isComplete func(body []byte) bool               // by the last bytes of a body that matches
	decode     func(io.Reader) (image.Image, error) // nil: the load generator has no decoder
}

var formats = []format{
	{
		name:       "JPEG",
		matches:    func(b []byte) bool { return bytes.HasPrefix(b, []byte("\xff\xd8\xff")) }, // SOI and another marker
		isComplete: func(b []byte) bool { return bytes.HasSuffix(b, []byte("\xff\xd9")) },     // EOI
		decode:     jpeg.Decode,
	},
	{
		name:       "PNG",
		matches:    func(b []byte) bool { return bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")) },
		isComplete: func(b []byte) bool { return bytes.HasSuffix(b, []byte("IEND\xae\x42\x60\x82")) }, // with its checksum
		decode:     png.Decode,
	},
	{
		name:       "WebP",
		matches:    func(b []byte) bool { return len(b) > 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP" },
		isComplete: func(b []byte) bool { return uint64(len(b)) >= 8+uint64(binary.LittleEndian.Uint32(b[4:])) },
		decode:     webp.Decode,
	},
	{
		name:       "AVIF",
		matches:    func(b []byte) bool { return len(b) > 12 && string(b[4:12]) == "ftypavif" },
		isComplete: endsWithABox,
	},
}

// endsWithABox reports whether a file of boxes (ISO/IEC 14496-12) ends where one of them does.
func endsWithABox(b []byte) bool {
	const header = 8
	for len(b) >= header {
		size := uint64(binary.BigEndian.Uint32(b))
		if size < header || size > uint64(len(b)) {
			return false
		}
		b = b[size:]
	}
	return len(b) == 0
}

// A checker checks the bodies of responses. Each must begin and end as an image does, which is cheap to check and
// detects texts and truncated images. The first valid response to each image is decoded as well.
type checker struct{ decoded []atomic.Bool }

func newChecker(images int) *checker { return &checker{make([]atomic.Bool, images)} }

// check returns what is wrong with the response to this image, or "".
func (c *checker) check(image int, body []byte) string {
	for _, f := range formats {
		if !f.matches(body) {
			continue
		}
		if !f.isComplete(body) {
			return "the response is a truncated " + f.name
		}
		if c.decoded[image].Load() {
			return ""
		}
		if f.decode == nil {
			return ""
		}
		if _, err := f.decode(bytes.NewReader(body)); err != nil {
			return "the response is an invalid " + f.name + ": " + err.Error()
		}
		c.decoded[image].Store(true)
		return ""
	}
	return "the response isn't a JPEG, PNG, WebP or AVIF"
}
