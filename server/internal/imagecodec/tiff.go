package imagecodec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/image/ccitt"
	"golang.org/x/image/tiff/lzw"

	"github.com/torchherd/torchherd/torch"
)

// A tiff is the first image of a TIFF file. Its pixels lie in blocks: strips of its whole width, or tiles.
//
// The decoder is this package's own, over the decompressors of other packages, because golang.org/x/image/tiff decompresses
// a block as a whole and then converts it as a whole. Files of one block are common, so it couldn't be stopped, and took
// several times the image's memory. This one streams rows.
type tiff struct {
	data   []byte
	order  binary.ByteOrder
	fields map[uint16]tiffField

	width, height           int
	bits, samples           int // of a sample; of a pixel
	photometric             int
	extra                   int // the meaning of the fourth sample
	compression             int
	predicted               bool // a row's samples are the differences to the pixel before
	palette                 [256][3]byte
	colours                 int // in the palette
	blockWidth, blockHeight int
	across, down            int // blocks
	tiled                   bool
	offsets, counts         tiffField // of the blocks, in bytes
}

// Tags and values of TIFF 6.0.
const (
	tiffWidth        = 256
	tiffHeight       = 257
	tiffBits         = 258
	tiffCompression  = 259
	tiffPhotometric  = 262
	tiffFillOrder    = 266
	tiffStripOffsets = 273
	tiffRowsPerStrip = 278
	tiffStripCounts  = 279
	tiffPlanar       = 284
	tiffPredictor    = 317
	tiffColorMap     = 320
	tiffTileWidth    = 322
	tiffTileHeight   = 323
	tiffTileOffsets  = 324
	tiffTileCounts   = 325
	tiffExtra        = 338
	tiffSampleFormat = 339

	tiffWhiteIsZero = 0
	tiffBlackIsZero = 1
	tiffRGB         = 2
	tiffPalette     = 3

	tiffNone       = 1
	tiffGroup3     = 3
	tiffGroup4     = 4
	tiffLZW        = 5
	tiffDeflate    = 8
	tiffOldDeflate = 32946
	tiffPackBits   = 32773
)

// A tiffField is an array of numbers in the file.
type tiffField struct {
	count, size int // numbers; bytes of each: 1, 2 or 4
	data        []byte
	order       binary.ByteOrder
}

// at returns a number, or 0 beyond the end.
func (f *tiffField) at(i int) int {
	if i >= f.count {
		return 0
	}
	switch b := f.data[i*f.size:]; f.size {
	case 1:
		return int(b[0])
	case 2:
		return int(f.order.Uint16(b))
	default:
		return int(f.order.Uint32(b))
	}
}

func tiffError(format string, arguments ...any) error {
	return fmt.Errorf("tiff: "+format, arguments...)
}

// parseTIFF reads the first directory of a TIFF file and checks what it says.
func parseTIFF(data []byte) (*tiff, error) {
	t := &tiff{data: data, order: binary.LittleEndian, fields: map[uint16]tiffField{}}
	if data[0] == 'M' {
		t.order = binary.BigEndian
	}
	if err := t.readDirectory(); err != nil {
		return nil, err
	}
	t.width, t.height = t.number(tiffWidth, 0), t.number(tiffHeight, 0)
	t.bits, t.samples = t.number(tiffBits, 1), max(1, t.fields[tiffBits].count)
	t.photometric, t.extra = t.number(tiffPhotometric, 0), t.number(tiffExtra, 0)
	t.compression, t.predicted = t.number(tiffCompression, tiffNone), t.number(tiffPredictor, 1) == 2
	if err := t.checkSamples(); err != nil {
		return nil, err
	}
	if err := t.readPalette(); err != nil {
		return nil, err
	}
	return t, t.readLayout()
}

// number returns the first number of a field, or the default if there is none.
func (t *tiff) number(tag uint16, absent int) int {
	f := t.fields[tag]
	if f.count == 0 {
		return absent
	}
	return f.at(0)
}

func (t *tiff) readDirectory() error {
	const header, entry = 8, 12 // bytes
	data := t.data
	if len(data) < header {
		return io.ErrUnexpectedEOF
	}
	at := int(t.order.Uint32(data[4:]))
	if at > len(data)-2 {
		return io.ErrUnexpectedEOF
	}
	entries := int(t.order.Uint16(data[at:]))
	if at += 2; entries*entry > len(data)-at {
		return io.ErrUnexpectedEOF
	}
	for previous := -1; entries > 0; entries, at = entries-1, at+entry {
		tag := t.order.Uint16(data[at:])
		if int(tag) <= previous {
			return tiffError("the tags of the directory are not in ascending order")
		}
		previous = int(tag)
		if !t.reads(tag) {
			continue
		}
		f, err := t.field(data[at:][:entry])
		if err != nil {
			return err
		}
		t.fields[tag] = f
	}
	return nil
}

// reads reports whether the decoder reads a tag.
func (t *tiff) reads(tag uint16) bool {
	switch tag {
	case tiffWidth, tiffHeight, tiffBits, tiffCompression, tiffPhotometric, tiffFillOrder, tiffStripOffsets, tiffRowsPerStrip,
		tiffStripCounts, tiffPlanar, tiffPredictor, tiffColorMap, tiffTileWidth, tiffTileHeight, tiffTileOffsets, tiffTileCounts,
		tiffExtra, tiffSampleFormat:
		return true
	}
	return false
}

// field reads an entry of the directory: tag, type, count, and the numbers or their offset.
func (t *tiff) field(entry []byte) (tiffField, error) {
	f := tiffField{count: int(t.order.Uint32(entry[4:])), order: t.order}
	switch kind := t.order.Uint16(entry[2:]); kind {
	case 1:
		f.size = 1
	case 3:
		f.size = 2
	case 4:
		f.size = 4
	default:
		return f, tiffError("unsupported type of a field: %d", kind)
	}
	if f.count*f.size <= 4 {
		f.data = entry[8:]
		return f, nil
	}
	at := int(t.order.Uint32(entry[8:]))
	if at > len(t.data) || f.count*f.size > len(t.data)-at {
		return f, io.ErrUnexpectedEOF
	}
	f.data = t.data[at:]
	return f, nil
}

func (t *tiff) checkSamples() error {
	wanted := 1
	switch t.photometric {
	case tiffRGB:
		if wanted = 3; t.samples == 4 && (t.extra == 1 || t.extra == 2) {
			wanted = 4
		}
	case tiffWhiteIsZero, tiffBlackIsZero, tiffPalette:
	default:
		return tiffError("unsupported color model: %d", t.photometric)
	}
	bits, format := t.fields[tiffBits], t.fields[tiffSampleFormat]
	for i := range min(bits.count, 4) {
		if bits.at(i) != t.bits {
			return tiffError("the samples differ in their bits")
		}
	}
	for i := range min(format.count, 4) {
		if format.at(i) != 1 {
			return tiffError("unsupported sample format: %d", format.at(i))
		}
	}
	switch {
	case t.samples != wanted:
		return tiffError("unsupported number of samples per pixel: %d", t.samples)
	case t.bits != 8 && t.bits != 16 && (t.bits != 1 || t.samples != 1), t.bits == 16 && t.photometric == tiffPalette:
		return tiffError("unsupported bits per sample: %d", t.bits)
	case t.bits == 1 && t.predicted:
		return tiffError("a predictor with one bit per sample")
	case t.samples > 1 && t.number(tiffPlanar, 1) != 1:
		return tiffError("unsupported planar configuration")
	}
	switch t.compression {
	case 0, tiffNone, tiffGroup3, tiffGroup4, tiffLZW, tiffDeflate, tiffOldDeflate, tiffPackBits:
		return nil
	}
	return tiffError("unsupported compression: %d", t.compression)
}

func (t *tiff) readPalette() error {
	if t.photometric != tiffPalette {
		return nil
	}
	f := t.fields[tiffColorMap]
	t.colours = f.count / 3
	if f.count%3 != 0 || t.colours < 1 || t.colours > len(t.palette) {
		return tiffError("bad length of the color map: %d", f.count)
	}
	for i := range t.colours {
		for c := range 3 {
			t.palette[i][c] = byte(f.at(c*t.colours+i) >> 8)
		}
	}
	return nil
}

func (t *tiff) readLayout() error {
	if t.width < 1 || t.height < 1 || t.width > torch.MaxSide || t.height > torch.MaxSide {
		return nil // checkPixels refuses it
	}
	t.blockWidth, t.blockHeight = t.width, t.height
	t.offsets, t.counts = t.fields[tiffStripOffsets], t.fields[tiffStripCounts]
	if width := t.number(tiffTileWidth, 0); width != 0 {
		t.tiled, t.blockWidth, t.blockHeight = true, width, t.number(tiffTileHeight, 0)
		t.offsets, t.counts = t.fields[tiffTileOffsets], t.fields[tiffTileCounts]
		// Tiles are padded to a multiple of 16. Some files have tiles that are larger than the image, up to a usual size.
		const smallest, largest, padding = 8, 1024, 16
		if min(t.blockWidth, t.blockHeight) < smallest ||
			(t.blockWidth-t.width > padding || t.blockHeight-t.height > padding) && max(t.blockWidth, t.blockHeight) > largest {
			return tiffError("bad tile size: %dx%d", t.blockWidth, t.blockHeight)
		}
	} else if rows := t.number(tiffRowsPerStrip, 0); rows > 0 {
		t.blockHeight = min(t.height, rows)
	}
	t.across = (t.width + t.blockWidth - 1) / t.blockWidth
	t.down = (t.height + t.blockHeight - 1) / t.blockHeight
	if n := t.across * t.down; t.offsets.count < n || t.counts.count < n {
		return tiffError("the directory has fewer offsets or counts than the image has strips or tiles")
	}
	return nil
}

// block returns the compressed bytes of a block.
func (t *tiff) block(i int) []byte {
	at := min(t.offsets.at(i), len(t.data))
	return t.data[at:min(len(t.data), at+t.counts.at(i))]
}

// rowSize returns the number of bytes of a block's row.
func (t *tiff) rowSize() int { return (t.blockWidth*t.samples*t.bits + 7) / 8 }

func tiffHeader(data []byte) (header, error) {
	t, err := parseTIFF(data)
	if err != nil {
		return header{}, err
	}
	h := header{
		kind: "a TIFF", width: t.width, height: t.height, orientation: torch.Upright,
		gray: t.photometric == tiffWhiteIsZero || t.photometric == tiffBlackIsZero, palette: t.photometric == tiffPalette, tiff: t,
	}
	if t.across == 0 {
		return h, nil
	}
	perByte, row := perTIFFByte, t.rowSize()
	perRow := picoseconds(row) * perTIFFSample
	switch t.compression {
	case tiffDeflate, tiffOldDeflate:
		perByte = perInflateByte
	case tiffGroup3, tiffGroup4:
		perRow = picoseconds(t.blockWidth) * perFaxPixel
	}
	h.memory = int64(row)
	if t.tiled {
		h.memory += 3 * int64(t.width) * int64(t.blockHeight)
	}
	blocks := t.across * t.down
	h.step = perRow
	h.work = rowsWork(t.width, t.height) + picoseconds(blocks)*(perTIFFBlock+perRow*picoseconds(t.blockHeight))
	if h.work > budget(len(data)) {
		h.kind = fmt.Sprintf("a TIFF with %d strips or tiles", blocks)
		return h, nil // before its many blocks are added up
	}
	read := 0
	for i := range blocks {
		read += len(t.block(i))
	}
	if read > len(data) {
		h.kind = fmt.Sprintf("a TIFF whose %d strips or tiles share their bytes, %d in all,", blocks, read)
	}
	h.work += picoseconds(read) * perByte
	return h, nil
}

func decodeTIFF(in *Input, s *sink) error {
	t := in.header.tiff
	row := make([]byte, t.rowSize())
	rows, band := s.rows, []byte(nil) // rows to decode at a time
	if t.tiled {
		rows = t.blockHeight
		band = make([]byte, 3*t.width*rows)
	} else {
		band = s.reusable(rows)
	}
	open := tiffReaders{sink: s}
	for j := range t.down {
		height := min(t.blockHeight, t.height-j*t.blockHeight)
		for y := 0; y < height; y += rows {
			n := min(rows, height-y)
			for i := range t.across {
				if y == 0 {
					if err := open.block(t, j*t.across+i, j); err != nil {
						return err
					}
				}
				left := i * t.blockWidth
				for k := range n {
					if err := t.readRow(s, open.current, row); err != nil {
						return err
					}
					out := band[3*(k*t.width+left) : 3*(k*t.width+min(t.width, left+t.blockWidth))]
					if err := t.convertRow(out, row); err != nil {
						return err
					}
				}
			}
			if err := s.push(band[:3*t.width*n], 3); err != nil {
				return err
			}
		}
	}
	return nil
}

// readRow reads a row of a block.
func (t *tiff) readRow(s *sink, r io.Reader, row []byte) error {
	if err := s.err(); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, row); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if !t.predicted {
		return nil
	}
	switch {
	case t.bits == 8:
		for i := t.samples; i < len(row); i++ {
			row[i] += row[i-t.samples]
		}
	case t.order == binary.LittleEndian:
		for at, left := row[2*t.samples:], row; len(at) >= 2; at, left = at[2:], left[2:] {
			binary.LittleEndian.PutUint16(at, binary.LittleEndian.Uint16(at)+binary.LittleEndian.Uint16(left))
		}
	default:
		for at, left := row[2*t.samples:], row; len(at) >= 2; at, left = at[2:], left[2:] {
			binary.BigEndian.PutUint16(at, binary.BigEndian.Uint16(at)+binary.BigEndian.Uint16(left))
		}
	}
	return nil
}

// convertRow sets out to the RGB pixels of a row. The alpha of a fourth sample is dropped.
func (t *tiff) convertRow(out, row []byte) error {
	high := 0 // the position of a 16-bit sample's upper byte
	if t.order == binary.LittleEndian {
		high = 1
	}
	switch {
	case t.photometric == tiffRGB && t.bits == 16:
		highBytes(out, row, 2*t.samples, high)
	case t.photometric == tiffRGB && t.samples == 3:
		copy(out, row)
	case t.photometric == tiffRGB:
		fromFour(out, row, t.extra == 1)
	case t.photometric == tiffPalette:
		return t.fromPalette(out, row)
	case t.bits == 16:
		fromGray(out, row[high:], 2)
	case t.bits == 8:
		fromGray(out, row, 1)
	default:
		for x := range len(out) / 3 {
			out[3*x] = -(row[x/8] >> (7 - x%8) & 1)
			out[3*x+1], out[3*x+2] = out[3*x], out[3*x]
		}
	}
	if t.photometric == tiffWhiteIsZero {
		for i := range out {
			out[i] = ^out[i]
		}
	}
	return nil
}

// fromFour drops the fourth sample, which is the alpha. If the colours are premultiplied by it, it divides them.
func fromFour(out, row []byte, premultiplied bool) {
	for ; len(out) > 0; out, row = out[3:], row[4:] {
		out[0], out[1], out[2] = row[0], row[1], row[2]
		if alpha := int(row[3]); premultiplied && alpha != 255 {
			// As image/color does; a colour above its alpha is invalid.
			for c, value := range row[:3] {
				out[c] = byte(int(value) * 0xffff / max(1, alpha) >> 8 & -min(1, alpha))
			}
		}
	}
}

func (t *tiff) fromPalette(out, row []byte) error {
	for x := range len(out) / 3 {
		index := row[x*t.bits/8]
		if t.bits == 1 {
			index = index >> (7 - x%8) & 1
		}
		if int(index) >= t.colours {
			return tiffError("a pixel's color isn't in the color map")
		}
		copy(out[3*x:], t.palette[index][:])
	}
	return nil
}

// tiffReaders opens the blocks of a file one after the other, and keeps what can be used again.
type tiffReaders struct {
	sink    *sink
	data    bufio.Reader
	inflate io.ReadCloser
	current io.Reader // of the block that was opened last
}

func (r *tiffReaders) block(t *tiff, i, j int) error {
	r.data.Reset(&reader{r.sink, t.block(i)})
	switch t.compression {
	case tiffLZW:
		r.current = lzw.NewReader(&r.data, lzw.MSB, 8)
	case tiffDeflate, tiffOldDeflate:
		if r.inflate != nil {
			return r.inflate.(zlib.Resetter).Reset(&r.data, nil)
		}
		var err error
		r.inflate, err = zlib.NewReader(&r.data)
		r.current = r.inflate
		return err
	case tiffPackBits:
		r.current = &packBits{data: &r.data}
	case tiffGroup3, tiffGroup4:
		subFormat, order := ccitt.Group3, ccitt.MSB
		if t.compression == tiffGroup4 {
			subFormat = ccitt.Group4
		}
		if t.number(tiffFillOrder, 1) == 2 {
			order = ccitt.LSB
		}
		height := t.blockHeight
		if !t.tiled {
			height = min(height, t.height-j*t.blockHeight)
		}
		r.current = ccitt.NewReader(&r.data, order, subFormat, t.blockWidth, height, &ccitt.Options{Invert: t.photometric == tiffWhiteIsZero})
	default:
		r.current = &r.data
	}
	return nil
}

// packBits decompresses runs of bytes: a count and one byte, or a count and as many bytes.
type packBits struct {
	data   *bufio.Reader
	copied int  // bytes left to copy
	run    int  // bytes left of a run
	value  byte // of the run
}

// Read returns at the end of a run, or of what it copies.
func (p *packBits) Read(out []byte) (int, error) {
	for p.run == 0 && p.copied == 0 {
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	if p.copied > 0 {
		n, err := p.data.Read(out[:min(len(out), p.copied)])
		p.copied -= n
		return n, err
	}
	part := out[:min(len(out), p.run)]
	for i := range part {
		part[i] = p.value
	}
	p.run -= len(part)
	return len(part), nil
}

// next reads a count.
func (p *packBits) next() error {
	b, err := p.data.ReadByte()
	if err != nil {
		return err
	}
	switch code := int(int8(b)); {
	case code >= 0:
		p.copied = code + 1
	case code > -128: // -128 does nothing
		p.run = 1 - code
		p.value, err = p.data.ReadByte()
	}
	return err
}
