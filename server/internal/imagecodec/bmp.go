package imagecodec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/torchherd/torchherd/torch"
)

// A bmpFile is a BMP whose headers have been read.
//
// The reader is this package's own: golang.org/x/image/bmp reads neither the headers of OS/2, nor 16 bits per pixel, masks,
// run lengths, or pixels that don't follow the headers at once, and keeps the image.
type bmpFile struct {
	width, height int
	topDown       bool
	depth         int // bits of a pixel
	compression   uint32
	masks         [3]uint32 // of red, green and blue, of 16 and 32 bits
	alphaMask     uint32    // of 32 bits; 0: no alpha
	colours       [256][3]byte
	gray          bool // a palette of black and white, or of all shades from black to white
	pixels        []byte
}

// The values of biCompression.
const (
	bmpRGB = iota
	bmpRLE8
	bmpRLE4
	bmpBitfields
	bmpJPEG
	bmpPNG
	bmpAlphaBitfields = 6
)

func bmpError(format string, arguments ...any) error { return fmt.Errorf("bmp: "+format, arguments...) }

// parseBMP reads what lies before the pixels.
func parseBMP(data []byte) (*bmpFile, error) {
	const fileHeader, core = 14, 12 // bytes
	if len(data) < fileHeader+core {
		return nil, io.ErrUnexpectedEOF
	}
	at := int(binary.LittleEndian.Uint32(data[10:]))
	size := int(binary.LittleEndian.Uint32(data[fileHeader:]))
	info := data[fileHeader:]
	if len(info) < size {
		return nil, io.ErrUnexpectedEOF
	}
	b := new(bmpFile)
	colours, err := b.readInfo(info[:size])
	if err != nil {
		return nil, err
	}
	after := info[size:]
	if after, err = b.readMasks(info[:size], after); err != nil {
		return nil, err
	}
	ofColour := 4
	if size == core {
		ofColour = 3
	}
	// Some files have fewer colours than they state, since the pixels follow.
	if room := at - (len(data) - len(after)); room > 0 {
		colours = min(colours, room/ofColour)
	}
	b.readPalette(after, colours, ofColour)
	if at > len(data) {
		return nil, io.ErrUnexpectedEOF
	}
	b.pixels = data[at:]
	return b, nil
}

// readInfo reads the second header, whose size tells its version, and returns the number of colours of the palette.
func (b *bmpFile) readInfo(info []byte) (colours int, err error) {
	const core, os2, windows = 12, 16, 40 // bytes
	planes := 0
	switch size := len(info); {
	case size == core:
		b.width, b.height = little16(info[4:]), little16(info[6:])
		planes, b.depth = little16(info[8:]), little16(info[10:])
	case size >= os2 && size <= 124:
		b.width, b.height = int(int32(binary.LittleEndian.Uint32(info[4:]))), int(int32(binary.LittleEndian.Uint32(info[8:])))
		planes, b.depth = little16(info[12:]), little16(info[14:])
		if size >= 20 {
			b.compression = binary.LittleEndian.Uint32(info[16:])
		}
		if size >= windows-4 {
			colours = int(min(binary.LittleEndian.Uint32(info[32:]), 256))
		}
		if size == 64 && b.compression >= bmpBitfields { // of OS/2 2.x: Huffman codes, or run lengths of 24 bits
			return 0, unsupported("BMP", "a compression of OS/2")
		}
	default:
		return 0, unsupported("BMP", fmt.Sprintf("a header of %d bytes", size))
	}
	if b.height < 0 {
		b.topDown, b.height = true, -b.height
	}
	if b.width < 0 || planes > 1 {
		return 0, bmpError("bad header")
	}
	if err := b.checkDepth(); err != nil {
		return 0, err
	}
	if b.depth > 8 {
		return 0, nil
	}
	if colours == 0 || colours > 1<<b.depth {
		colours = 1 << b.depth
	}
	return colours, nil
}

func (b *bmpFile) checkDepth() error {
	allowed := map[uint32]string{bmpRGB: "\x01\x02\x04\x08\x10\x18\x20", bmpRLE8: "\x08", bmpRLE4: "\x04", bmpBitfields: "\x10\x18\x20", bmpAlphaBitfields: "\x10\x18\x20"}
	switch b.compression {
	case bmpJPEG, bmpPNG:
		return unsupported("BMP", "a JPEG or PNG inside")
	}
	depths, known := allowed[b.compression]
	if !known {
		return unsupported("BMP", fmt.Sprintf("the compression %d", b.compression))
	}
	for _, d := range []byte(depths) {
		if int(d) == b.depth {
			return nil
		}
	}
	return bmpError("%d bits per pixel with compression %d", b.depth, b.compression)
}

// readMasks reads where the channels of a pixel are, and returns what follows.
func (b *bmpFile) readMasks(info, after []byte) ([]byte, error) {
	b.masks = [3]uint32{0xff0000, 0xff00, 0xff}
	if b.depth == 16 {
		b.masks = [3]uint32{0x7c00, 0x3e0, 0x1f}
	}
	if b.compression != bmpBitfields && b.compression != bmpAlphaBitfields {
		return after, nil
	}
	const withAlphaMask, withMasks, windows = 56, 52, 40
	from := info[min(len(info), windows):]
	if len(info) < withMasks {
		size := 12
		if b.compression == bmpAlphaBitfields {
			size = 16
		}
		if len(after) < size {
			return nil, io.ErrUnexpectedEOF
		}
		from, after = after, after[size:]
	}
	for i := range b.masks {
		b.masks[i] = binary.LittleEndian.Uint32(from[4*i:])
	}
	// A shorter header has three masks, unless the compression says that there are four.
	if b.depth == 32 && (len(info) >= withAlphaMask || b.compression == bmpAlphaBitfields) && len(from) >= 16 {
		b.alphaMask = binary.LittleEndian.Uint32(from[12:])
	}
	return after, nil
}

// readPalette reads the colours that are there; the others are black.
func (b *bmpFile) readPalette(data []byte, colours, size int) {
	if b.depth > 8 {
		return
	}
	b.gray = true
	for i := range min(colours, len(data)/size) {
		c := data[i*size:]
		b.colours[i] = [3]byte{c[2], c[1], c[0]}
		// What Pillow takes for grayscale.
		level := byte(i)
		if colours == 2 {
			level = byte(i * 255)
		}
		b.gray = b.gray && b.colours[i] == [3]byte{level, level, level}
	}
}

// stride returns the number of bytes of a row in the file, if it isn't compressed.
func (b *bmpFile) stride() int { return (b.width*b.depth + 31) / 32 * 4 }

func (b *bmpFile) runs() bool { return b.compression == bmpRLE8 || b.compression == bmpRLE4 }

func bmpHeader(data []byte) (header, error) {
	b, err := parseBMP(data)
	if err != nil {
		return header{}, err
	}
	h := header{kind: "a BMP", width: b.width, height: b.height, orientation: torch.Upright, gray: b.gray, palette: b.depth <= 8 && !b.gray, alpha: b.alphaMask != 0, bmp: b}
	pixels := int64(h.width) * int64(h.height)
	if b.runs() {
		h.kind, h.memory = "a BMP with run lengths", pixels
		h.work += picoseconds(len(data)+int(pixels)) * perBMPByte
	}
	row := picoseconds(h.width*max(8, b.depth)) / 8
	h.step = row * perBMPByte
	h.work += rowsWork(h.width, h.height) + row*picoseconds(h.height)*perBMPByte
	return h, nil
}

func decodeBMP(in *Input, s *sink) error {
	b := in.header.bmp
	row := func(y int) []byte { return b.pixels[y*b.stride():][:b.stride()] }
	if b.runs() {
		indices, err := b.unpack(s)
		if err != nil {
			return err
		}
		row = func(y int) []byte { return indices[y*b.width:][:b.width] }
	} else if need := b.stride() * b.height; len(b.pixels) < need {
		// The last row's padding may be missing.
		if len(b.pixels) < need-(b.stride()-(b.width*b.depth+7)/8) {
			return io.ErrUnexpectedEOF
		}
		last := append(make([]byte, 0, b.stride()), b.pixels[b.stride()*(b.height-1):]...)[:b.stride()]
		row = func(y int) []byte {
			if y == b.height-1 {
				return last
			}
			return b.pixels[y*b.stride():][:b.stride()]
		}
	}
	convert := b.converter()
	opacity := levelsOf(b.alphaMask)
	for y := 0; y < b.height; y += s.rows {
		n := min(s.rows, b.height-y)
		band, alpha := s.reusable(n), s.alphaBand(n)
		for k := range n {
			from := y + k
			if !b.topDown {
				from = b.height - 1 - from
			}
			pixels := row(from)
			convert(band[3*b.width*k:][:3*b.width], pixels)
			if alpha == nil {
				continue
			}
			for x := range b.width {
				alpha[b.width*k+x] = opacity.of(binary.LittleEndian.Uint32(pixels[4*x:]))
			}
		}
		if err := s.pushBand(band, alpha); err != nil {
			return err
		}
	}
	return nil
}

// converter returns the function that sets out to the RGB pixels of a row.
func (b *bmpFile) converter() func(out, row []byte) {
	switch {
	case b.depth == 8 || b.runs():
		return func(out, row []byte) { fromPalette(out, row, &b.colours) }
	case b.depth < 8:
		return func(out, row []byte) {
			perByte := 8 / b.depth
			for x := range len(out) / 3 {
				index := row[x/perByte] >> (8 - b.depth*(1+x%perByte)) & (1<<b.depth - 1)
				copy(out[3*x:], b.colours[index][:])
			}
		}
	case b.depth == 24 || b.depth == 32 && b.masks == [3]uint32{0xff0000, 0xff00, 0xff}:
		size := b.depth / 8
		return func(out, row []byte) {
			for ; len(out) >= 3; out, row = out[3:], row[size:] {
				out[0], out[1], out[2] = row[2], row[1], row[0]
			}
		}
	}
	return b.masked()
}

// masked returns the converter of 16 or 32 bits with any masks.
func (b *bmpFile) masked() func(out, row []byte) {
	var channels [3]bmpLevels
	for i, mask := range b.masks {
		channels[i] = levelsOf(mask)
	}
	size := b.depth / 8
	return func(out, row []byte) {
		for ; len(out) >= 3; out, row = out[3:], row[size:] {
			pixel := uint32(row[0]) | uint32(row[1])<<8
			if size == 4 {
				pixel |= uint32(row[2])<<16 | uint32(row[3])<<24
			}
			for c := range 3 {
				out[c] = channels[c].of(pixel)
			}
		}
	}
}

// bmpLevels are the levels of one channel, which a mask takes out of a pixel. Channels of fewer than 8 bits are scaled as
// Pillow does, to the nearest of 256 levels, rounded down; of more than 8 bits the upper 8 count.
type bmpLevels struct {
	mask   uint32
	shift  int
	levels [256]byte
}

func levelsOf(mask uint32) bmpLevels {
	if mask == 0 {
		return bmpLevels{}
	}
	width := bits.Len32(mask) - bits.TrailingZeros32(mask)
	l := bmpLevels{mask: mask, shift: bits.TrailingZeros32(mask) + max(0, width-8)}
	largest := 1<<min(width, 8) - 1
	for v := range largest + 1 {
		l.levels[v] = byte(v * 255 / largest)
	}
	return l
}

func (l *bmpLevels) of(pixel uint32) byte { return l.levels[byte(pixel&l.mask>>l.shift)] }

// unpack returns the indices of an image with run lengths, from its first row in the file. What the runs leave out has the
// index 0. The file may end early once all rows have begun, which Pillow accepts too.
func (b *bmpFile) unpack(s *sink) ([]byte, error) {
	out := make([]byte, b.width*b.height)
	data := &bmpRuns{data: b.pixels}
	for x, y, codes := 0, 0, 0; ; codes++ {
		if codes%(1<<16) == 0 && s.err() != nil {
			return nil, s.err()
		}
		count, value, err := data.pair()
		if y >= b.height || errors.Is(err, io.EOF) && y == b.height-1 && x >= b.width {
			return out, nil
		}
		if err != nil {
			return nil, io.ErrUnexpectedEOF
		}
		row := out[y*b.width:][:b.width]
		switch {
		case count > 0:
			for i := range count {
				if x < b.width {
					row[x] = b.index(value, i)
				}
				x++
			}
		case value == 0: // the end of the row
			x, y = 0, y+1
		case value == 1: // the end of the image
			return out, nil
		case value == 2: // a step to the right and on
			right, on, err := data.pair()
			if err != nil {
				return nil, io.ErrUnexpectedEOF
			}
			x, y = min(x+right, b.width), y+int(on)
		default: // indices as they are, padded to 16 bits
			perByte := 8 / b.depth
			literal, err := data.take((int(value) + perByte - 1) / perByte)
			if err != nil {
				return nil, err
			}
			for i := range int(value) {
				if x < b.width {
					row[x] = b.index(literal[i/perByte], i)
				}
				x++
			}
		}
		x = min(x, b.width)
	}
}

// index returns the index number i of those that a byte holds.
func (b *bmpFile) index(value byte, i int) byte {
	if b.depth == 8 {
		return value
	}
	return value >> (4 * (1 - i%2)) & 0xf
}

// bmpRuns reads the codes of run lengths.
type bmpRuns struct{ data []byte }

func (r *bmpRuns) pair() (first int, second byte, err error) {
	if len(r.data) < 2 {
		return 0, 0, io.EOF
	}
	first, second, r.data = int(r.data[0]), r.data[1], r.data[2:]
	return first, second, nil
}

// take returns so many bytes and skips their padding.
func (r *bmpRuns) take(size int) ([]byte, error) {
	if len(r.data) < size {
		return nil, io.ErrUnexpectedEOF
	}
	out := r.data[:size]
	r.data = r.data[min(len(r.data), size+size%2):]
	return out, nil
}
