package imagecodec

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/torchherd/torchherd/torch"
)

// A tiff is the first image of a TIFF file. Its pixels lie in blocks: strips of its whole width, or tiles.
//
// This package reads the directory, from which it computes what the decoding costs, and libtiff decodes. libtiff gets another
// directory, of the fields that are checked here, so that no other field reaches it.
type tiff struct {
	data   []byte
	order  binary.ByteOrder
	big    bool // BigTIFF: counts and offsets of 64 bits
	fields map[uint16]tiffField

	width, height           int
	bits, samples           int // of a sample; of a pixel
	photometric             int
	compression             int
	planes                  int // 1 if a pixel's samples lie beside each other
	blockWidth, blockHeight int
	across, down            int // blocks of a plane
	tiled                   bool
	offsets, counts         tiffField // of the blocks, in bytes
}

// Tags and values of TIFF 6.0 and its supplements.
const (
	tiffWidth        = 256
	tiffHeight       = 257
	tiffBits         = 258
	tiffCompression  = 259
	tiffPhotometric  = 262
	tiffFillOrder    = 266
	tiffStripOffsets = 273
	tiffSamples      = 277
	tiffRowsPerStrip = 278
	tiffStripCounts  = 279
	tiffPlanar       = 284
	tiffGroup3Flags  = 292
	tiffPredictor    = 317
	tiffColorMap     = 320
	tiffTileWidth    = 322
	tiffTileHeight   = 323
	tiffTileOffsets  = 324
	tiffTileCounts   = 325
	tiffInkSet       = 332
	tiffExtra        = 338
	tiffSampleFormat = 339
	tiffJPEGTables   = 347
	tiffSubsampling  = 530

	tiffWhiteIsZero = 0
	tiffBlackIsZero = 1
	tiffRGB         = 2
	tiffPalette     = 3
	tiffCMYK        = 5
	tiffYCbCr       = 6

	tiffNone       = 1
	tiffHuffman    = 2
	tiffGroup3     = 3
	tiffGroup4     = 4
	tiffLZW        = 5
	tiffJPEG       = 7
	tiffDeflate    = 8
	tiffHuffman16  = 32771
	tiffOldDeflate = 32946
	tiffPackBits   = 32773
)

// tiffForDecoder are the tags that libtiff gets.
var (
	tiffForDecoder = []uint16{
		tiffWidth, tiffHeight, tiffBits, tiffCompression, tiffPhotometric, tiffFillOrder, tiffStripOffsets, tiffSamples,
		tiffRowsPerStrip, tiffStripCounts, tiffPlanar, tiffGroup3Flags, tiffPredictor, tiffColorMap, tiffTileWidth, tiffTileHeight,
		tiffTileOffsets, tiffTileCounts, tiffInkSet, tiffExtra, tiffSampleFormat, tiffJPEGTables, tiffSubsampling,
	}
)

// The names of what is refused.
var (
	tiffCompressions = map[int]string{
		6: "JPEG compression of the old kind", 32766: "NeXT compression", 32809: "ThunderScan compression", 32909: "PixarLog compression",
		33003: "JPEG 2000 compression", 33005: "JPEG 2000 compression", 34661: "JBIG compression", 34676: "LogLuv compression", 34677: "LogLuv compression",
		34712: "JPEG 2000 compression", 34887: "LERC compression", 34892: "lossy JPEG compression of DNG", 34925: "LZMA compression",
		50000: "Zstandard compression", 50001: "WebP compression", 50002: "JPEG XL compression", 52546: "JPEG XL compression",
	}
	tiffPhotometrics = map[int]string{
		4: "a transparency mask", 8: "CIE L*a*b* colours", 9: "ICC L*a*b* colours", 10: "ITU L*a*b* colours", 32803: "the raw pixels of a camera",
		32844: "LogL pixels", 32845: "LogLuv pixels", 34892: "the linear raw pixels of a camera",
	}
	tiffSampleFormats = map[int]string{2: "signed samples", 3: "floating-point samples", 5: "complex samples", 6: "complex samples"}
)

// A tiffField is an array of numbers in the file.
type tiffField struct {
	count, size int // numbers; bytes of each: 1, 2, 4 or 8
	data        []byte
	order       binary.ByteOrder
	entry       []byte // of the directory
}

// at returns a number, or 0 beyond the end. Numbers above those of any file are cut off.
func (f *tiffField) at(i int) int {
	if i >= f.count {
		return 0
	}
	switch b := f.data[i*f.size:]; f.size {
	case 1:
		return int(b[0])
	case 2:
		return int(f.order.Uint16(b))
	case 4:
		return int(f.order.Uint32(b))
	default:
		return int(min(f.order.Uint64(b), 1<<40))
	}
}

func tiffError(format string, arguments ...any) error {
	return fmt.Errorf("tiff: "+format, arguments...)
}

func unsupportedTIFF(what string) error { return unsupported("TIFF", what) }

// named returns the name of a number, or the number after its kind.
func named(names map[int]string, kind string, number int) string {
	if name := names[number]; name != "" {
		return name
	}
	return fmt.Sprintf("%s %d", kind, number)
}

// parseTIFF reads the first directory of a TIFF file and checks what it says.
func parseTIFF(data []byte) (*tiff, error) {
	t := &tiff{data: data, order: binary.LittleEndian, fields: map[uint16]tiffField{}}
	if data[0] == 'M' {
		t.order = binary.BigEndian
	}
	t.big = t.order.Uint16(data[2:]) == 43
	if err := t.readDirectory(); err != nil {
		return nil, err
	}
	t.width, t.height = t.number(tiffWidth, 0), t.number(tiffHeight, 0)
	t.bits, t.samples = t.number(tiffBits, 1), t.number(tiffSamples, 1)
	t.photometric, t.compression = t.number(tiffPhotometric, 0), t.number(tiffCompression, tiffNone)
	if t.planes = 1; t.number(tiffPlanar, 1) == 2 {
		t.planes = t.samples
	}
	if err := t.checkKind(); err != nil {
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

// offset reads an offset or count of the file's kind.
func (t *tiff) offset(b []byte) int {
	f := tiffField{count: 1, size: t.offsetSize(), data: b, order: t.order}
	return f.at(0)
}

func (t *tiff) offsetSize() int {
	if t.big {
		return 8
	}
	return 4
}

// entrySize returns the bytes of an entry: tag, type, count, and the numbers or their offset.
func (t *tiff) entrySize() int { return 4 + 2*t.offsetSize() }

// firstAt returns where the offset of the first directory is.
func (t *tiff) firstAt() int { return t.offsetSize() }

// readDirectory reads the fields of interest. Of a tag that is there twice the first counts.
func (t *tiff) readDirectory() error {
	data, entry, ofCount := t.data, t.entrySize(), 2
	if len(data) < t.firstAt()+t.offsetSize() {
		return io.ErrUnexpectedEOF
	}
	at := t.offset(data[t.firstAt():])
	if t.big {
		ofCount = 8
	}
	if at > len(data)-ofCount {
		return io.ErrUnexpectedEOF
	}
	entries := int(t.order.Uint16(data[at:]))
	if t.big {
		entries = t.offset(data[at:])
	}
	at += ofCount
	if entries > (len(data)-at)/entry {
		return io.ErrUnexpectedEOF
	}
	for ; entries > 0; entries, at = entries-1, at+entry {
		tag := t.order.Uint16(data[at:])
		if _, twice := t.fields[tag]; twice || !slices.Contains(tiffForDecoder, tag) {
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

func (t *tiff) field(entry []byte) (tiffField, error) {
	ofOffset := t.offsetSize()
	f := tiffField{count: t.offset(entry[4:]), order: t.order, entry: entry}
	switch kind := t.order.Uint16(entry[2:]); kind {
	case 1, 7: // 7: bytes of any meaning
		f.size = 1
	case 3:
		f.size = 2
	case 4, 13:
		f.size = 4
	case 16, 18:
		f.size = 8
	default:
		return f, tiffError("unknown type of a field: %d", kind)
	}
	value := entry[4+ofOffset:]
	if f.count <= ofOffset/f.size {
		f.data = value
		return f, nil
	}
	at := t.offset(value)
	if at > len(t.data) || f.count > (len(t.data)-at)/f.size {
		return f, io.ErrUnexpectedEOF
	}
	f.data = t.data[at:]
	return f, nil
}

// checkKind refuses what this package or libtiff doesn't decode.
func (t *tiff) checkKind() error {
	wanted := t.colours()
	if wanted == 0 {
		return unsupportedTIFF(named(tiffPhotometrics, "the color model", t.photometric))
	}
	switch t.compression {
	case tiffNone, tiffHuffman, tiffGroup3, tiffGroup4, tiffLZW, tiffJPEG, tiffDeflate, tiffOldDeflate, tiffPackBits, tiffHuffman16:
	default:
		return unsupportedTIFF(named(tiffCompressions, "the compression", t.compression))
	}
	bits, format := t.fields[tiffBits], t.fields[tiffSampleFormat]
	for i := range min(bits.count, 8) {
		if bits.at(i) != t.bits {
			return unsupportedTIFF("samples that differ in their bits")
		}
	}
	const unsigned, undefined = 1, 4
	for i := range min(format.count, 8) {
		if f := format.at(i); f != unsigned && f != undefined {
			return unsupportedTIFF(named(tiffSampleFormats, "the sample format", f))
		}
	}
	const most = 64
	switch {
	case t.samples < wanted || t.samples > most:
		return tiffError("%d samples per pixel", t.samples)
	case t.photometric == tiffCMYK && t.number(tiffInkSet, 1) != 1:
		return unsupportedTIFF("inks other than CMYK")
	case t.photometric == tiffYCbCr && t.compression != tiffJPEG:
		return unsupportedTIFF("YCbCr pixels without JPEG compression")
	case t.photometric == tiffYCbCr && t.planes > 1:
		return unsupportedTIFF("planes of YCbCr")
	}
	return t.checkBits()
}

// colours returns how many of a pixel's samples are colours or inks; 0: the color model isn't supported.
func (t *tiff) colours() int {
	switch t.photometric {
	case tiffWhiteIsZero, tiffBlackIsZero, tiffPalette:
		return 1
	case tiffRGB, tiffYCbCr:
		return 3
	case tiffCMYK:
		return 4
	}
	return 0
}

func (t *tiff) checkBits() error {
	deep := t.photometric != tiffPalette && t.compression != tiffJPEG
	switch {
	case t.bits == 8 || t.bits == 16 && deep:
	case (t.bits == 1 || t.bits == 2 || t.bits == 4) && t.photometric != tiffYCbCr && t.compression != tiffJPEG && t.samples == 1:
	default:
		return unsupportedTIFF(fmt.Sprintf("samples of %d bits", t.bits))
	}
	fax := t.compression == tiffHuffman || t.compression == tiffGroup3 || t.compression == tiffGroup4 || t.compression == tiffHuffman16
	if fax && t.bits != 1 {
		return tiffError("a fax of %d bits", t.bits)
	}
	if predictor := t.number(tiffPredictor, 1); predictor > 1 && (predictor != 2 || t.bits < 8) {
		return tiffError("a predictor for %d bits: %d", t.bits, predictor)
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
	if n := t.across * t.down * t.planes; t.offsets.count < n {
		return tiffError("the directory has fewer offsets than the image has strips or tiles")
	}
	return nil
}

// blockSize returns the number of compressed bytes of a block. libtiff estimates missing ones.
func (t *tiff) blockSize(i int) int {
	at := min(t.offsets.at(i), len(t.data))
	if size := t.counts.at(i); size > 0 {
		return min(len(t.data)-at, size)
	}
	return len(t.data) - at
}

// unsupportedBlock returns what a block of so many bytes has that the decoder lacks, or "".
func (t *tiff) unsupportedBlock(i, size int) string {
	data := t.data[min(t.offsets.at(i), len(t.data)):][:size]
	switch {
	case t.compression == tiffLZW && size > 1 && data[0] == 0 && data[1]&1 == 1: // the codes begin with their lowest bits
		return "LZW compression of the old kind"
	case t.compression == tiffJPEG:
		switch frame, _ := frameOfJPEG(data); frame {
		case 0, 0xc0, 0xc1:
		case 0xc2, 0xca:
			return "progressive JPEG compression"
		case 0xc9:
			return "arithmetic-coded JPEG compression"
		default:
			return cmp.Or(unsupportedJPEG(data), "this kind of JPEG compression")
		}
	}
	return ""
}

// rowSize returns the number of bytes of a block's row.
func (t *tiff) rowSize() int { return (t.blockWidth*t.samples/t.planes*t.bits + 7) / 8 }

// streamed reports whether rows are decoded one by one, without a band of blocks.
func (t *tiff) streamed() bool { return !t.tiled && t.planes == 1 }

func tiffHeader(data []byte) (header, error) {
	const smallest = 16
	if len(data) < smallest {
		return header{}, io.ErrUnexpectedEOF
	}
	t, err := parseTIFF(data)
	if err != nil {
		return header{}, err
	}
	h := header{
		kind: "a TIFF", width: t.width, height: t.height, orientation: torch.Upright,
		gray: t.photometric == tiffWhiteIsZero || t.photometric == tiffBlackIsZero, palette: t.photometric == tiffPalette, tiff: t,
		deep: t.deep(), alpha: t.hasAlpha(),
	}
	if t.across == 0 {
		return h, nil
	}
	perByte, row := perTIFFByte, t.rowSize()
	perRow := picoseconds(row) * perTIFFSample
	switch t.compression {
	case tiffDeflate, tiffOldDeflate:
		perByte = perTIFFInflateByte
	case tiffHuffman, tiffHuffman16, tiffGroup3, tiffGroup4:
		perByte, perRow = perFaxByte, picoseconds(t.blockWidth)*perFaxPixel
	case tiffJPEG:
		perRow = picoseconds(row) * perTIFFJPEGSample
	}
	blocks := t.across * t.down * t.planes
	const rowsOfJPEG = 16 // are decoded at once
	if h.step = perRow; t.compression == tiffJPEG {
		h.step *= rowsOfJPEG
	}
	h.work = rowsWork(t.width, t.height) + picoseconds(blocks)*(perTIFFBlock+perRow*picoseconds(min(t.blockHeight, t.height)))
	if h.work > budget(len(data)) {
		h.kind = fmt.Sprintf("a TIFF with %d strips or tiles", blocks)
		return h, nil // before its many blocks are added up
	}
	read, largest := 0, 0
	for i := range blocks {
		size := t.blockSize(i)
		if what := t.unsupportedBlock(i, size); what != "" {
			return header{}, unsupportedTIFF(what)
		}
		read += size
		largest = max(largest, size)
	}
	if read > len(data) {
		h.kind = fmt.Sprintf("a TIFF whose %d strips or tiles share their bytes, %d in all,", blocks, read)
	}
	h.work += picoseconds(read) * perByte
	h.memory, h.alphaMemory = t.memory(largest), int64(t.width)*int64(rowsOfModule(t.width, t.height))
	return h, nil
}

// memory returns the size of the WebAssembly memory that libtiff needs at most. largest: the bytes of the largest block.
func (t *tiff) memory(largest int) int64 {
	const (
		fixed    = 1 << 20
		ofBlock  = 64  // offset and count, as libtiff reads them and keeps them
		ofColumn = 512 // of a block: fax's runs, and JPEG's rows of all components
	)
	need := fixed + int64(len(t.data)) + ofBlock*int64(t.across*t.down*t.planes) + ofColumn*int64(t.blockWidth) + 3*int64(t.rowSize())
	if t.number(tiffFillOrder, 1) == 2 {
		need += int64(largest)
	}
	if !t.streamed() {
		need += int64(min(t.blockHeight, t.height)) * ((int64(t.width)*int64(t.samples*t.bits) + 7) / 8)
	}
	ofPixel := int64(3)
	if t.deep() {
		ofPixel = 2 * channelsOfSamples
	}
	return need + ofPixel*int64(t.width)*int64(rowsOfModule(t.width, t.height))
}

// hasAlpha reports whether the sample after the colours is an alpha: associated (1), by which libtiff's side divides the colours,
// or not (2).
func (t *tiff) hasAlpha() bool {
	kind := t.number(tiffExtra, 0)
	return (kind == 1 || kind == 2) && t.photometric != tiffCMYK && t.samples > t.colours() && t.bits >= 8
}

// deep reports whether 8 bits of RGB don't hold all of a pixel.
func (t *tiff) deep() bool { return t.bits == 16 || t.photometric == tiffCMYK && t.bits == 8 }

// directory returns the file's first bytes, with the offset of a directory after its last ones, and that directory.
func (t *tiff) directory() (start, directory []byte) {
	ofCount, largest := 2, 16
	if t.big {
		ofCount = 8
	}
	entries := make([][]byte, 0, len(tiffForDecoder))
	for _, tag := range tiffForDecoder {
		if f := t.fields[tag]; f.count > 0 {
			entries = append(entries, f.entry)
		}
	}
	slices.SortFunc(entries, func(a, b []byte) int { return cmp.Compare(t.order.Uint16(a), t.order.Uint16(b)) })
	padding := len(t.data) % 2
	directory = make([]byte, padding, padding+ofCount+len(entries)*t.entrySize()+t.offsetSize())
	start = append(make([]byte, 0, largest), t.data[:largest]...)
	if at := len(t.data) + padding; t.big {
		t.order.PutUint64(start[t.firstAt():], uint64(at))
		directory = t.order.(binary.AppendByteOrder).AppendUint64(directory, uint64(len(entries)))
	} else {
		t.order.PutUint32(start[t.firstAt():], uint32(at))
		directory = t.order.(binary.AppendByteOrder).AppendUint16(directory, uint16(len(entries)))
	}
	for _, entry := range entries {
		directory = append(directory, entry...)
	}
	return start, append(directory, make([]byte, t.offsetSize())...)
}

func decodeTIFF(in *Input, s *sink) error {
	t := in.header.tiff
	start, directory := t.directory()
	parts := [][]byte{start, t.data[len(start):], directory}
	alpha := uint64(0)
	if s.wantsAlpha() {
		alpha = 1
	}
	return tiffDecoder.decodeRows(in, s, perHuffmanTables, parts, uint64(t.width), uint64(t.height), uint64(rowsOfModule(t.width, t.height)), alpha)
}
