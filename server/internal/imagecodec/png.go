package imagecodec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zlib"

	"github.com/torchherd/torchherd/torch"
)

// A pngFile is a PNG whose header has been read.
//
// The decoder is this package's own, because Go's keeps the whole image, with up to 16 bytes for a pixel, and puts the passes
// of an interlaced one together without looking at its reader. This one streams rows, and keeps three bytes for a pixel of
// an interlaced image. Transparency isn't read: a transparent pixel keeps its colour.
type pngFile struct {
	width, height   int
	depth, channels int  // bits of a sample; samples of a pixel
	palette         bool // a sample is an index of colours
	interlaced      bool
	colours         [256][3]byte // black beyond the file's
	idat            []byte       // from the length of the first IDAT chunk
}

func pngError(format string, arguments ...any) error { return fmt.Errorf("png: "+format, arguments...) }

var errPNGChecksum = errors.New("png: invalid checksum")

// nextChunk returns the first chunk of the data and what follows it. It checks the checksums of chunks without which an image
// can't be understood, and not those of others, which GIMP 2.10 wrote wrongly: libpng and browsers ignore those chunks.
func nextChunk(data []byte) (kind string, chunk, rest []byte, err error) {
	const before, after = 8, 4 // length and kind; checksum
	if len(data) < before+after {
		return "", nil, nil, io.ErrUnexpectedEOF
	}
	length := int(binary.BigEndian.Uint32(data))
	if length > len(data)-before-after {
		return "", nil, nil, io.ErrUnexpectedEOF
	}
	kind, chunk = string(data[4:before]), data[before:before+length]
	const ancillary = 0x20 // of the first letter
	if data[4]&ancillary == 0 && crc32.ChecksumIEEE(data[4:before+length]) != binary.BigEndian.Uint32(data[before+length:]) {
		return "", nil, nil, errPNGChecksum
	}
	return kind, chunk, data[before+length+after:], nil
}

// parsePNG reads the chunks before the pixels.
func parsePNG(data []byte) (*pngFile, error) {
	const signature = 8
	kind, chunk, rest, err := nextChunk(data[signature:])
	if err != nil {
		return nil, err
	}
	if kind == "CgBI" {
		return nil, unsupported("PNG", "pixels as iOS applications store them (CgBI)")
	}
	if kind != "IHDR" || len(chunk) != 13 {
		return nil, pngError("the first chunk isn't a header")
	}
	p := &pngFile{width: int(binary.BigEndian.Uint32(chunk)), height: int(binary.BigEndian.Uint32(chunk[4:])), depth: int(chunk[8])}
	if err := p.readKind(chunk[8], chunk[9]); err != nil {
		return nil, err
	}
	if chunk[10] != 0 || chunk[11] != 0 || chunk[12] > 1 {
		return nil, pngError("unsupported compression, filter or interlace method")
	}
	p.interlaced = chunk[12] == 1
	for hasPalette := !p.palette; ; {
		p.idat = rest
		if len(rest) >= 8 && string(rest[4:8]) == "IDAT" {
			if !hasPalette {
				return nil, pngError("missing palette")
			}
			return p, nil
		}
		if kind, chunk, rest, err = nextChunk(rest); err != nil {
			return nil, err
		}
		switch kind {
		case "IEND":
			return nil, pngError("no pixels")
		case "PLTE":
			hasPalette = true
			if len(chunk)%3 != 0 || len(chunk) == 0 || len(chunk)/3 > len(p.colours) {
				return nil, pngError("bad length of the palette: %d", len(chunk))
			}
			for i := range len(chunk) / 3 {
				copy(p.colours[i][:], chunk[3*i:])
			}
		}
	}
}

// readKind reads the depth and the kind of the pixels.
func (p *pngFile) readKind(depth, kind byte) error {
	depths := map[byte]string{0: "\x01\x02\x04\x08\x10", 2: "\x08\x10", 3: "\x01\x02\x04\x08", 4: "\x08\x10", 6: "\x08\x10"}
	for _, d := range []byte(depths[kind]) {
		if d == depth {
			p.palette = kind == 3
			p.channels = map[byte]int{0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
			return nil
		}
	}
	return pngError("unsupported bit depth %d with color type %d", depth, kind)
}

// rowSize returns the number of bytes of a row, without its filter.
func (p *pngFile) rowSize(width int) int { return (width*p.channels*p.depth + 7) / 8 }

// direct reports whether a row has the form that a resize takes.
func (p *pngFile) direct() bool { return p.channels >= 3 && p.depth == 8 }

func pngHeader(data []byte) (header, error) {
	p, err := parsePNG(data)
	if err != nil {
		return header{}, err
	}
	h := header{
		kind: "a PNG", width: p.width, height: p.height, orientation: torch.Upright,
		gray: p.channels < 3 && !p.palette, palette: p.palette, png: p,
		alpha: p.channels == 2 || p.channels == 4, deep: p.depth == 16,
	}
	row := int64(p.rowSize(p.width))
	if p.depth == 16 {
		h.kind = "a PNG with 16 bits per channel"
	}
	h.memory = 2*row + int64(p.width) // two rows, and a fourth channel of those that are resized together
	h.step = picoseconds(row) * perPNGByte
	h.work = rowsWork(p.width, p.height) + picoseconds(len(data))*perInflateByte + picoseconds(row+1)*picoseconds(h.height)*perPNGByte
	if p.direct() && !p.interlaced {
		h.work -= picoseconds(p.width) * picoseconds(p.height) * perConverted
	}
	if p.interlaced {
		h.kind = "an interlaced PNG"
		h.memory += 3 * int64(p.width) * int64(p.height+1)
		h.work += picoseconds(p.width) * picoseconds(p.height) * perMergedPixel
	}
	return h, nil
}

func decodePNG(in *Input, s *sink) error {
	p := in.header.png
	chunks := &idatReader{sink: s, rest: p.idat}
	inflate, err := zlib.NewReader(bufio.NewReader(chunks))
	if err != nil {
		return err
	}
	rows := &pngRows{file: p, sink: s, inflate: inflate, transparency: in.header.details.transparency}
	switch {
	case p.interlaced:
		return rows.passes()
	case p.direct() && !s.wantsAlpha():
		return rows.direct()
	}
	return rows.converted()
}

// An idatReader reads the contents of successive IDAT chunks. As Pillow it doesn't look at their checksums, nor at what
// follows the last row: many files lack their end, or have a stream of pixels that isn't ended or goes on.
type idatReader struct {
	sink  *sink
	chunk reader
	rest  []byte // of the file, after the chunk
}

func (r *idatReader) Read(p []byte) (int, error) {
	for len(r.chunk.data) == 0 {
		if err := r.sink.err(); err != nil {
			return 0, err
		}
		if len(r.rest) < 8 || string(r.rest[4:8]) != "IDAT" {
			return 0, io.ErrUnexpectedEOF
		}
		const before, after = 8, 4 // length and kind; checksum
		length := int(binary.BigEndian.Uint32(r.rest))
		chunk := r.rest[before:][:min(length, len(r.rest)-before)]
		r.chunk, r.rest = reader{r.sink, chunk}, r.rest[min(before+length+after, len(r.rest)):]
	}
	return r.chunk.Read(p)
}

// pngRows reads the rows of an image and resizes them.
type pngRows struct {
	file    *pngFile
	sink    *sink
	inflate io.Reader
	filter  [1]byte

	transparency []byte // see details
}

// read reads a row and undoes its filter. above: the row above, or nil.
func (r *pngRows) read(row, above []byte) error {
	if err := r.sink.err(); err != nil {
		return err
	}
	for _, part := range [][]byte{r.filter[:], row} {
		if _, err := io.ReadFull(r.inflate, part); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return unfilter(r.filter[0], row, above, max(1, r.file.channels*r.file.depth/8))
}

// direct resizes rows as they are.
func (r *pngRows) direct() error {
	p, s := r.file, r.sink
	size := p.rowSize(p.width)
	band, last := make([]byte, size*s.rows), make([]byte, size)
	var above []byte
	for y := 0; y < p.height; y += s.rows {
		n := min(s.rows, p.height-y)
		for k := range n {
			row := band[k*size:][:size]
			if err := r.read(row, above); err != nil {
				return err
			}
			above = row
		}
		if err := s.push(band[:n*size], p.channels); err != nil {
			return err
		}
		copy(last, above)
		above = last
	}
	return nil
}

// converted resizes rows that become RGB.
func (r *pngRows) converted() error {
	p, s := r.file, r.sink
	size := p.rowSize(p.width)
	row, above, next := make([]byte, size), []byte(nil), make([]byte, size)
	for y := 0; y < p.height; y += s.rows {
		n := min(s.rows, p.height-y)
		band, alpha := s.reusable(n), s.alphaBand(n)
		for k := range n {
			if err := r.read(row, above); err != nil {
				return err
			}
			r.convert(band[3*p.width*k:][:3*p.width], row)
			if alpha != nil {
				p.alphaOf(alpha[p.width*k:][:p.width], row, r.transparency)
			}
			row, above, next = next, row, row
		}
		if err := s.pushBand(band, alpha); err != nil {
			return err
		}
	}
	return nil
}

// passes puts the seven passes of an interlaced image together and resizes it. The pass i has the pixels at x+i*dx, y+i*dy.
func (r *pngRows) passes() error {
	p := r.file
	pixels := make([]byte, 3*p.width*p.height)
	buffer, rgb := make([]byte, 2*p.rowSize(p.width)), make([]byte, 3*p.width)
	var alpha, rowAlpha []byte
	if r.sink.wantsAlpha() {
		alpha, rowAlpha = make([]byte, p.width*p.height), make([]byte, p.width)
	}
	for _, pass := range [...]struct{ x, y, dx, dy int }{
		{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2},
	} {
		width := (p.width - pass.x + pass.dx - 1) / pass.dx
		if width <= 0 {
			continue
		}
		size := p.rowSize(width)
		row, above, next := buffer[:size], []byte(nil), buffer[size:2*size]
		for y := pass.y; y < p.height; y += pass.dy {
			if err := r.read(row, above); err != nil {
				return err
			}
			r.convert(rgb[:3*width], row)
			out := pixels[3*(y*p.width+pass.x):]
			for x := range width {
				copy(out[3*x*pass.dx:][:3], rgb[3*x:])
			}
			if alpha != nil {
				p.alphaOf(rowAlpha[:width], row, r.transparency)
				for x, a := range rowAlpha[:width] {
					alpha[y*p.width+pass.x+x*pass.dx] = a
				}
			}
			row, above, next = next, row, row
		}
	}
	return r.sink.pushBand(pixels, alpha)
}

// convert sets out to the RGB pixels of a row, whose colours are converted if they have 16 bits.
func (r *pngRows) convert(out, row []byte) {
	if r.sink.transform == nil {
		r.file.convert(out, row)
		return
	}
	channels, last := r.file.channels, 2 // of the pixel's samples
	if channels < 3 {
		last = 0
	}
	samples := r.sink.row16(3)[:len(out)]
	for i := range samples {
		samples[i] = binary.BigEndian.Uint16(row[2*(i/3*channels+min(i%3, last)):])
	}
	r.sink.transform.Apply16(out, samples)
}

// convert sets out to the RGB pixels of a row.
func (p *pngFile) convert(out, row []byte) {
	switch {
	case p.depth == 16 && p.channels >= 3:
		highBytes(out, row, 2*p.channels, 0)
	case p.channels == 3:
		copy(out, row)
	case p.channels == 4:
		fromFour(out, row)
	case p.depth >= 8 && !p.palette:
		fromGray(out, row, p.channels*p.depth/8)
	case p.depth == 8:
		fromPalette(out, row, &p.colours)
	default:
		p.convertBits(out, row)
	}
}

// convertBits converts samples of less than 8 bits.
func (p *pngFile) convertBits(out, row []byte) {
	perByte, largest := 8/p.depth, byte(1<<p.depth-1)
	for x := range len(out) / 3 {
		sample := row[x/perByte] >> (8 - p.depth*(1+x%perByte)) & largest
		if p.palette {
			copy(out[3*x:], p.colours[sample][:])
			continue
		}
		level := sample * (255 / largest)
		out[3*x], out[3*x+1], out[3*x+2] = level, level, level
	}
}

// unfilter undoes the filter of a row. above: the row above, or nil for zeros. size: the number of bytes between a byte and
// the one that it is predicted from.
func unfilter(filter byte, row, above []byte, size int) error {
	switch filter {
	case 0:
	case 1:
		for i := size; i < len(row); i++ {
			row[i] += row[i-size]
		}
	case 2:
		for i, up := range above {
			row[i] += up
		}
	case 3:
		unfilterAverage(row, above, size)
	case 4:
		unfilterPaeth(row, above, size)
	default:
		return pngError("unknown filter: %d", filter)
	}
	return nil
}

func unfilterAverage(row, above []byte, size int) {
	if above == nil {
		for i := size; i < len(row); i++ {
			row[i] += row[i-size] / 2
		}
		return
	}
	above = above[:len(row)]
	for i := range min(size, len(row)) {
		row[i] += above[i] / 2
	}
	for i := size; i < len(row); i++ {
		row[i] += byte((int(row[i-size]) + int(above[i])) / 2)
	}
}

func unfilterPaeth(row, above []byte, size int) {
	if above == nil { // the predictor is the byte to the left
		for i := size; i < len(row); i++ {
			row[i] += row[i-size]
		}
		return
	}
	above = above[:len(row)]
	for c := range min(size, len(row)) {
		left, corner := 0, 0 // none before the first pixel
		for i := c; i < len(row); i += size {
			up := int(above[i])
			toLeft, toUp := up-corner, left-corner // how far left+up-corner is from each, with a sign
			toCorner := abs(toLeft + toUp)
			toLeft, toUp = abs(toLeft), abs(toUp)
			switch {
			case toLeft <= toUp && toLeft <= toCorner:
			case toUp <= toCorner:
				left = up
			default:
				left = corner
			}
			left = (left + int(row[i])) & 0xff
			row[i], corner = byte(left), up
		}
	}
}

func abs(n int) int { return max(n, -n) }
