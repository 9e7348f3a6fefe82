package imagecodec_test

import (
	"bytes"
	"compress/flate"
	"compress/lzw"
	"encoding/binary"
	"hash/adler32"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
)

// The files of these tests are small and take long, or much memory. Each is what a decoder has to decode; none is a
// truncated or otherwise broken file.

// repeated returns count times data.
func repeated(data string, count int) []byte { return bytes.Repeat([]byte(data), count) }

// zeros returns the zlib stream of count zero bytes.
func zeros(count int) []byte {
	var out bytes.Buffer
	out.WriteString("\x78\x9c")
	w, _ := flate.NewWriter(&out, flate.BestCompression)
	sum, rest := adler32.New(), count
	for block := make([]byte, 1<<20); rest > 0; rest -= len(block) {
		block = block[:min(len(block), rest)]
		_, _ = w.Write(block)
		_, _ = sum.Write(block)
	}
	_ = w.Close()
	return sum.Sum(out.Bytes())
}

// A bits writes bits into bytes, the first into the lowest.
type bits struct {
	out  []byte
	last uint64
	n    int
}

func (b *bits) add(value uint64, n int) {
	b.last |= value << b.n
	for b.n += n; b.n >= 8; b.n -= 8 {
		b.out = append(b.out, byte(b.last))
		b.last >>= 8
	}
}

// emptyTables returns a zlib stream of payload after count deflate blocks that contain nothing but their Huffman tables.
func emptyTables(count int, payload []byte) []byte {
	b := bits{out: []byte("\x78\x9c")}
	for range count {
		b.add(0, 1)       // not the last block
		b.add(2, 2)       // with its own tables
		b.add(286-257, 5) // literals and lengths
		b.add(30-1, 5)    // distances
		b.add(18-4, 4)    // lengths of code lengths, of which those are used for: 18 (1 bit), 8 (2 bits), 1 (2 bits)
		order := []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1}
		lengths := map[int]uint64{18: 1, 1: 2, 0: 2}
		for _, symbol := range order {
			b.add(lengths[symbol], 3)
		}
		// Canonical codes: 18 is 0, 0 is 10, 1 is 11, the first bit first. 256 zeros, then the end of the block with one
		// bit, then zeros, and one distance.
		run := func(n int) { b.add(0, 1); b.add(uint64(n-11), 7) }
		run(138)
		run(118)
		b.add(3, 2)
		run(29)
		b.add(3, 2)
		run(29)
		b.add(0, 1) // the end of the block
	}
	b.add(1, 1) // the last block, stored
	b.add(0, 2)
	if b.n > 0 {
		b.add(0, 8-b.n)
	}
	out := binary.LittleEndian.AppendUint16(b.out, uint16(len(payload)))
	out = binary.LittleEndian.AppendUint16(out, ^uint16(len(payload)))
	out = append(out, payload...)
	return binary.BigEndian.AppendUint32(out, adler32.Checksum(payload))
}

func pngChunk(kind string, data []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	out = append(append(out, kind...), data...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[4:]))
}

// pngOf returns a PNG with this stream of rows.
func pngOf(width, height int, depth, kind, interlace byte, stream []byte) []byte {
	var palette []byte
	if kind == 3 {
		palette = pngChunk("PLTE", make([]byte, 3))
	}
	ihdr := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(width)), uint32(height))
	return slices.Concat([]byte("\x89PNG\r\n\x1a\n"), pngChunk("IHDR", append(ihdr, depth, kind, 0, 0, interlace)),
		palette, pngChunk("IDAT", stream), pngChunk("IEND", nil))
}

var pngChannels = map[byte]int{0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

// blackPNG returns a PNG whose samples are 0.
func blackPNG(width, height int, depth, kind, interlace byte) []byte {
	size := func(w, h int) int {
		if w == 0 || h == 0 {
			return 0
		}
		return h * (1 + (w*pngChannels[kind]*int(depth)+7)/8)
	}
	total := size(width, height)
	if interlace != 0 {
		total = 0
		for _, p := range [][4]int{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}} {
			total += size((width-p[0]+p[2]-1)/p[2], (height-p[1]+p[3]-1)/p[3])
		}
	}
	return pngOf(width, height, depth, kind, interlace, zeros(total))
}

// progressive returns a flat progressive JPEG whose refinement scans are a few runs of blocks without a change.
func progressive(width, height, scans, components int) []byte {
	segment := func(marker byte, data ...byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{0xff, marker}, uint16(len(data)+2)), data...)
	}
	blocks := ((width + 7) / 8) * ((height + 7) / 8)
	frame := []byte{8, byte(height >> 8), byte(height), byte(width >> 8), byte(width), byte(components)}
	scan := []byte{byte(components)}
	for c := range components {
		frame = append(frame, byte(c+1), 0x11, 0)
		scan = append(scan, byte(c+1), 0)
	}
	out := slices.Concat([]byte{0xff, 0xd8}, segment(0xdb, append([]byte{0}, repeated("\x01", 64)...)...), segment(0xc2, frame...),
		segment(0xc4, append([]byte{0x00, 1}, append(make([]byte, 15), 0)...)...),
		segment(0xc4, append([]byte{0x10, 1}, append(make([]byte, 15), 0xe0)...)...),
		segment(0xda, append(scan, 0, 0, 1)...), make([]byte, (blocks*components+7)/8))
	run := strings.Repeat("0"+strings.Repeat("1", 14), (blocks+32766)/32767)
	run += strings.Repeat("1", (8-len(run)%8)%8)
	var data []byte
	for i := 0; i < len(run); i += 8 {
		var b byte
		for _, bit := range run[i : i+8] {
			b = b<<1 | byte(bit-'0')
		}
		if data = append(data, b); b == 0xff {
			data = append(data, 0)
		}
	}
	for s := range scans {
		approximation := byte(0x10)
		if s < components {
			approximation = 0x01
		}
		out = append(append(out, segment(0xda, 1, byte(s%components+1), 0, 1, 63, approximation)...), data...)
	}
	return append(out, 0xff, 0xd9)
}

// A tiffFile writes a TIFF whose blocks all are the same bytes.
type tiffFile struct {
	width, height, rowsPerStrip, tile int
	bits, samples                     int
	compression, photometric          int
	predictor                         int
	block                             []byte
}

func (f tiffFile) bytes() []byte {
	blocks := (f.height + f.rowsPerStrip - 1) / max(1, f.rowsPerStrip)
	if f.tile > 0 {
		blocks = ((f.width + f.tile - 1) / f.tile) * ((f.height + f.tile - 1) / f.tile)
	}
	out := []byte("II*\x00\x00\x00\x00\x00")
	blockAt := len(out)
	out = append(out, f.block...)
	array := func(value, count int) (at int) {
		at = len(out)
		for range count {
			out = binary.LittleEndian.AppendUint32(out, uint32(value))
		}
		return at
	}
	offsets, counts := array(blockAt, blocks), array(len(f.block), blocks)
	bitsAt := len(out)
	for range f.samples {
		out = binary.LittleEndian.AppendUint16(out, uint16(f.bits))
	}
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)))
	type entry struct{ tag, kind, count, value int }
	pointer := func(tag, count, at, value int) entry { // an array of one lies in the entry
		if count == 1 {
			return entry{tag, 4, 1, value}
		}
		return entry{tag, 4, count, at}
	}
	entries := []entry{
		{256, 4, 1, f.width}, {257, 4, 1, f.height}, {258, 3, f.samples, bitsAt}, {259, 3, 1, f.compression}, {262, 3, 1, f.photometric},
	}
	if f.samples == 1 {
		entries[2].value = f.bits
	}
	if f.tile == 0 {
		entries = append(entries, pointer(273, blocks, offsets, blockAt), entry{277, 3, 1, f.samples}, entry{278, 4, 1, f.rowsPerStrip},
			pointer(279, blocks, counts, len(f.block)), entry{317, 3, 1, max(1, f.predictor)})
	} else {
		entries = append(entries, entry{277, 3, 1, f.samples}, entry{317, 3, 1, max(1, f.predictor)}, entry{322, 4, 1, f.tile},
			entry{323, 4, 1, f.tile}, pointer(324, blocks, offsets, blockAt), pointer(325, blocks, counts, len(f.block)))
	}
	if f.samples == 4 {
		entries = append(entries, entry{338, 3, 1, 1})
	}
	out = binary.LittleEndian.AppendUint16(out, uint16(len(entries)))
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(out, uint16(e.tag))
		out = binary.LittleEndian.AppendUint16(out, uint16(e.kind))
		out = binary.LittleEndian.AppendUint32(out, uint32(e.count))
		out = binary.LittleEndian.AppendUint32(out, uint32(e.value))
	}
	return append(out, 0, 0, 0, 0)
}

// packed returns count times a byte by PackBits.
func packed(count int) []byte {
	return append(repeated("\x81\x07", count/128), repeated("\x00\x07", count%128)...)
}

// blackGIF returns a GIF of one frame.
func blackGIF(width, height int, interlaced bool) []byte {
	out := []byte("GIF89a")
	side := func(n int) { out = binary.LittleEndian.AppendUint16(out, uint16(n)) }
	side(width)
	side(height)
	out = append(out, 0x80, 0, 0, 0, 0, 0, 255, 255, 255, ',', 0, 0, 0, 0)
	side(width)
	side(height)
	flags := byte(0)
	if interlaced {
		flags = 0x40
	}
	out = append(out, flags, 8)
	var compressed bytes.Buffer
	w := lzw.NewWriter(&compressed, lzw.LSB, 8)
	for rest := width * height; rest > 0; {
		n, _ := w.Write(make([]byte, min(rest, 1<<20)))
		rest -= n
	}
	_ = w.Close()
	for data := compressed.Bytes(); len(data) > 0; {
		n := min(255, len(data))
		out = append(append(out, byte(n)), data[:n]...)
		data = data[n:]
	}
	return append(out, 0, ';')
}

// claimingGIF returns a GIF of a size that it hasn't.
func claimingGIF(width, height int) []byte {
	out := blackGIF(1, 1, false)
	binary.LittleEndian.PutUint16(out[6:], uint16(width))
	binary.LittleEndian.PutUint16(out[8:], uint16(height))
	return out
}

// bmpFile returns a BMP whose pixels are 0; those that the file lacks are cut off.
func bmpFile(width, height, depth, rows int) []byte {
	colours := 0
	if depth <= 8 {
		colours = 1 << depth
	}
	out := append([]byte("BM"), make([]byte, 52+4*colours)...)
	put := binary.LittleEndian.PutUint32
	put(out[10:], uint32(len(out)))
	put(out[14:], 40)
	put(out[18:], uint32(width))
	put(out[22:], uint32(height))
	out[26], out[28] = 1, byte(depth)
	return append(out, make([]byte, ((width*depth+31)/32*4)*rows)...)
}

// flatVP8 returns a WebP with a lossy frame of one colour, whose bits are all zeros.
func flatVP8(width, height, size int) []byte {
	frame := []byte{0, 0, 0, 0x9d, 0x01, 0x2a, byte(width), byte(width >> 8), byte(height), byte(height >> 8)}
	partition := size / 2
	binary.LittleEndian.PutUint16(frame, uint16(partition<<5|1<<4))
	frame[2] = byte(partition >> 11)
	frame = append(frame, make([]byte, size)...)
	return webpOf("VP8 ", frame)
}

// flatVP8L returns a WebP with a lossless frame of one colour, whose pixels take no bits.
func flatVP8L(width, height int) []byte {
	b := bits{out: []byte{0x2f}}
	b.add(uint64(width-1), 14)
	b.add(uint64(height-1), 14)
	b.add(0, 1) // no alpha
	b.add(0, 3) // version
	b.add(0, 1) // no transform
	b.add(0, 1) // no color cache
	b.add(0, 1) // one group of tables
	for range 5 {
		b.add(1, 1) // a simple table
		b.add(0, 1) // of one symbol
		b.add(0, 1) // of one bit
		b.add(0, 1)
	}
	b.add(0, 64)
	return webpOf("VP8L", b.out)
}

func webpOf(kind string, frame []byte) []byte {
	frame = append(frame, make([]byte, len(frame)%2)...)
	out := append([]byte("RIFF"), binary.LittleEndian.AppendUint32(nil, uint32(len(frame)+12))...)
	out = append(append(out, "WEBP"...), kind...)
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(frame))), frame...)
}

// bombs are small files that would take seconds, or gigabytes, or both without a budget. refused: why Prepare or Decode
// refuses it, or decodes. brief: it is decoded within milliseconds, which its context's end may miss.
var bombs = []struct {
	name    string
	file    func() []byte
	refused imagecodec.Reason
	brief   bool
}{
	{"progressive JPEG of 190 scans", sync.OnceValue(func() []byte { return progressive(9459, 9459, 190, 3) }), imagecodec.TooMuchWork, false},
	{"progressive JPEG of 41 scans", sync.OnceValue(func() []byte { return progressive(3000, 3000, 40, 3) }), decodes, false},
	{"progressive JPEG of four channels", sync.OnceValue(func() []byte { return progressive(3000, 3000, 20, 4) }), decodes, false},
	{"JPEG of 30,000 scans", sync.OnceValue(func() []byte { return progressive(8, 8, 30_000, 3) }), decodes, true},
	{"PNG of 16 bits", sync.OnceValue(func() []byte { return pngOf(9459, 9459, 16, 6, 0, zeros(100)) }), imagecodec.TooMuchWork, false},
	{"interlaced PNG of 16 bits", sync.OnceValue(func() []byte { return pngOf(9459, 9459, 16, 6, 1, zeros(100)) }), imagecodec.TooMuchWork, false},
	{"PNG", sync.OnceValue(func() []byte { return blackPNG(2500, 2500, 8, 2, 0) }), decodes, false},
	{"interlaced PNG", sync.OnceValue(func() []byte { return blackPNG(2000, 2000, 8, 2, 1) }), decodes, false},
	{"PNG of a palette", sync.OnceValue(func() []byte { return blackPNG(2500, 2500, 8, 3, 0) }), decodes, false},
	{"PNG of a bit per pixel", sync.OnceValue(func() []byte { return blackPNG(2500, 2500, 1, 3, 0) }), decodes, false},
	{"PNG of one long row", sync.OnceValue(func() []byte { return pngOf(1<<24, 5, 8, 2, 0, zeros(100)) }), imagecodec.TooMuchWork, false},
	{"PNG of one pixel per row", sync.OnceValue(func() []byte { return blackPNG(1, 1<<17, 8, 2, 0) }), decodes, false},
	{"PNG of Huffman tables", sync.OnceValue(func() []byte { return pngOf(1, 1, 8, 2, 0, emptyTables(50_000, make([]byte, 4))) }), decodes, false},
	{"GIF", sync.OnceValue(func() []byte { return blackGIF(2500, 2500, false) }), decodes, false},
	{"interlaced GIF", sync.OnceValue(func() []byte { return blackGIF(2500, 2500, true) }), decodes, false},
	{"GIF of 89 megapixels", sync.OnceValue(func() []byte { return claimingGIF(9459, 9459) }), decodes, false},
	{"BMP of a bit per pixel", sync.OnceValue(func() []byte { return bmpFile(5700, 5700, 1, 5700) }), decodes, false},
	{"BMP without pixels", sync.OnceValue(func() []byte { return bmpFile(9459, 9459, 1, 0) }), imagecodec.Broken, false},
	{"TIFF of strips of empty deflate blocks", sync.OnceValue(func() []byte { return sharedStrips(tiffFile{compression: 8, block: emptyTables(1000, []byte("abc"))}) }), imagecodec.TooMuchWork, false},
	{"TIFF of strips of empty runs", func() []byte {
		return sharedStrips(tiffFile{compression: 32773, block: append(repeated("\x80", 150_000), "\x02abc"...)})
	}, imagecodec.TooMuchWork, false},
	{"TIFF of strips with LZW", sync.OnceValue(func() []byte { return sharedStrips(tiffFile{compression: 5, block: make([]byte, 150_000)}) }), imagecodec.TooMuchWork, false},
	{"TIFF of 200,000 strips", sync.OnceValue(func() []byte { return sharedStrips(tiffFile{height: 200_000, compression: 1, block: []byte("abc")}) }), imagecodec.TooMuchWork, false},
	{"TIFF of tiles", func() []byte {
		return tiffFile{width: 2048, height: 2048, tile: 16, bits: 8, samples: 3, compression: 8, photometric: 2, block: zeros(16 * 16 * 3)}.bytes()
	}, decodes, false},
	{"TIFF of one deflated strip", func() []byte {
		return tiffFile{width: 2000, height: 2000, rowsPerStrip: 2000, bits: 8, samples: 3, compression: 8, photometric: 2, predictor: 2, block: zeros(2000 * 2000 * 3)}.bytes()
	}, decodes, false},
	{"TIFF of one strip of runs", func() []byte {
		return tiffFile{width: 2000, height: 2000, rowsPerStrip: 2000, bits: 8, samples: 3, compression: 32773, photometric: 2, block: packed(2000 * 2000 * 3)}.bytes()
	}, decodes, false},
	{"TIFF of 16 bits", func() []byte {
		return tiffFile{width: 6000, height: 6000, rowsPerStrip: 6000, bits: 16, samples: 4, compression: 8, photometric: 2, predictor: 2, block: zeros(100)}.bytes()
	}, imagecodec.TooMuchWork, false},
	{"TIFF of a fax", func() []byte {
		return tiffFile{width: 4000, height: 4000, rowsPerStrip: 4000, bits: 1, samples: 1, compression: 4, photometric: 0, block: repeated("\xff", 4000/8+100)}.bytes()
	}, decodes, false},
	{"AVIF", formatFile("large.avif"), decodes, false},
	{"JPEG 2000 of nothing", sync.OnceValue(func() []byte { return emptyJ2K(2500, 2500, 2500, 0xff) }), decodes, false},
	{"JPEG 2000 of 89 megapixels", sync.OnceValue(func() []byte { return emptyJ2K(9459, 9459, 9459, 0xff) }), imagecodec.TooMuchWork, false},
	{"JPEG 2000 of small tiles", sync.OnceValue(func() []byte { return emptyJ2K(1000, 1000, 16, 0xff) }), decodes, false},
	{"JPEG 2000 of tiny tiles", sync.OnceValue(func() []byte { return emptyJ2K(1020, 1020, 4, 0xff) }), imagecodec.TooMuchWork, false},
	{"JPEG 2000 of tiny precincts", sync.OnceValue(func() []byte { return emptyJ2K(2000, 2000, 2000, 0x11) }), imagecodec.TooMuchWork, false},
	{"TIFF of JPEG", formatFile("tiff-jpeg.tiff"), decodes, true},
	{"TIFF of planes in tiles", formatFile("tiff-planar-large-tiles.tiff"), decodes, true},
	{"TIFF of LZW that only clears its table", sync.OnceValue(func() []byte {
		return tiffFile{width: 1300, height: 1300, rowsPerStrip: 1300, bits: 8, samples: 1, compression: 5, photometric: 1, block: clearedLZW(1_700_000)}.bytes()
	}), decodes, false},
	{"TIFF of Huffman tables", sync.OnceValue(func() []byte {
		return tiffFile{width: 1, height: 1, rowsPerStrip: 1, bits: 8, samples: 3, compression: 8, photometric: 2, block: emptyTables(50_000, make([]byte, 4))}.bytes()
	}), decodes, false},
	{"lossless WebP of one colour", sync.OnceValue(func() []byte { return flatVP8L(3000, 3000) }), decodes, false},
	{"lossless WebP of 89 megapixels", sync.OnceValue(func() []byte { return flatVP8L(9459, 9459) }), imagecodec.TooMuchWork, false},
	{"lossy WebP of 89 megapixels", sync.OnceValue(func() []byte { return flatVP8(9459, 9459, 100) }), imagecodec.TooMuchWork, false},
	{"lossy WebP", sync.OnceValue(func() []byte { return flatVP8(3000, 3000, 1<<18) }), decodes, false},
}

// emptyJ2K returns a codestream of JPEG 2000 of three components whose packets are empty. precinct: the exponents of the sides of
// precincts; 0xff: they are as large as can be.
func emptyJ2K(width, height, tile int, precinct byte) []byte {
	const levels, components = 5, 3
	marker := func(name uint16, content ...byte) []byte {
		out := binary.BigEndian.AppendUint16(nil, name)
		return append(binary.BigEndian.AppendUint16(out, uint16(len(content)+2)), content...)
	}
	siz := []byte{0, 0}
	for _, n := range []int{width, height, 0, 0, tile, tile, 0, 0} {
		siz = binary.BigEndian.AppendUint32(siz, uint32(n))
	}
	siz = append(siz, 0, components)
	for range components {
		siz = append(siz, 7, 1, 1)
	}
	cod := []byte{0, 0, 0, 1, 1, levels, 4, 4, 0, 1} // one layer, the colours transformed, blocks of 64x64, the reversible wavelet
	if precinct != 0xff {
		cod[0] = 1
		cod = append(cod, bytes.Repeat([]byte{precinct}, levels+1)...)
	}
	qcd := append([]byte{0x40}, bytes.Repeat([]byte{0x48}, 3*levels+1)...)
	out := slices.Concat([]byte{0xff, 0x4f}, marker(0xff51, siz...), marker(0xff52, cod...), marker(0xff5c, qcd...))
	packets := make([]byte, (levels+1)*components)
	across := (width + tile - 1) / tile
	for i := range across * ((height + tile - 1) / tile) {
		out = append(out, marker(0xff90, byte(i>>8), byte(i), 0, 0, 0, byte(14+len(packets)), 0, 1)...)
		out = append(append(out, 0xff, 0x93), packets...)
	}
	return append(out, 0xff, 0xd9)
}

// formatFile returns a reader of a file of testdata/formats.
func formatFile(name string) func() []byte {
	return func() []byte {
		data, err := os.ReadFile(filepath.Join("..", "..", "..", "testdata", "formats", name))
		if err != nil {
			panic(err)
		}
		return data
	}
}

// claimedAVIF returns an AVIF that states a size that it hasn't.
func claimedAVIF(width, height int) []byte {
	out := formatFile("large.avif")()
	at := bytes.Index(out, []byte("ispe")) + 8
	binary.BigEndian.PutUint32(out[at:], uint32(width))
	binary.BigEndian.PutUint32(out[at+4:], uint32(height))
	return out
}

// clearedLZW returns LZW codes of a table that is cleared after each byte.
func clearedLZW(count int) []byte {
	var out []byte
	var last uint64
	n := 0
	for range count {
		last, n = last<<18|256<<9|7, n+18
		for ; n >= 8; n -= 8 {
			out = append(out, byte(last>>(n-8)))
		}
	}
	return out
}

const decodes imagecodec.Reason = -1

// sharedStrips returns a TIFF of 1 pixel by 20,000, or height, whose strips of a row share their bytes.
func sharedStrips(f tiffFile) []byte {
	f.width, f.height, f.rowsPerStrip, f.bits, f.samples, f.photometric = 1, max(20_000, f.height), 1, 8, 3, 2
	return f.bytes()
}
