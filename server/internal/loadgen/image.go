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

// A format is a picture format that answers come in.
type format struct {
	name   string
	begins func(body []byte) bool
	isFull func(body []byte) bool // of a body that begins so: whether its end is there
	decode func(io.Reader) (image.Image, error)
}

var formats = []format{
	{
		name:   "JPEG",
		begins: func(b []byte) bool { return bytes.HasPrefix(b, []byte("\xff\xd8\xff")) }, // SOI, and another marker
		isFull: func(b []byte) bool { return bytes.HasSuffix(b, []byte("\xff\xd9")) },     // EOI
		decode: jpeg.Decode,
	},
	{
		name:   "PNG",
		begins: func(b []byte) bool { return bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")) },
		isFull: func(b []byte) bool { return bytes.HasSuffix(b, []byte("IEND\xae\x42\x60\x82")) }, // with its checksum
		decode: png.Decode,
	},
	{
		name:   "WebP",
		begins: func(b []byte) bool { return len(b) > 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP" },
		isFull: func(b []byte) bool { return uint64(len(b)) >= 8+uint64(binary.LittleEndian.Uint32(b[4:])) },
		decode: webp.Decode,
	},
}

// A checker looks at the bodies of answers. Each must begin and end as a picture does; that is cheap, and finds texts
// and cut-off files. The first good answer to each picture is decoded as well.
type checker struct{ decoded []atomic.Bool }

func newChecker(pictures int) *checker { return &checker{make([]atomic.Bool, pictures)} }

// check says what is wrong with an answer to this picture; "" if nothing is.
func (c *checker) check(picture int, body []byte) string {
	for _, f := range formats {
		if !f.begins(body) {
			continue
		}
		if !f.isFull(body) {
			return "the answer is a truncated " + f.name
		}
		if c.decoded[picture].Load() {
			return ""
		}
		if _, err := f.decode(bytes.NewReader(body)); err != nil {
			return "the answer is a broken " + f.name + ": " + err.Error()
		}
		c.decoded[picture].Store(true)
		return ""
	}
	return "the answer is no JPEG, PNG or WebP"
}
