package imagecodec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/torchherd/torchherd/torch"
)

// A jpeg2000 is a JPEG 2000 whose headers have been read: a codestream (ITU-T T.800, annex A), alone or in a JP2 file (annex I).
// OpenJPEG decodes the codestream. This package reads the boxes around it, which tell what the components mean.
type jpeg2000 struct {
	codestream    []byte
	width, height int
	components    []j2kComponent
	tiles         int
	tileW, tileH  int
	blockSize     int // samples of a code block, unless a component or tile has its own
	resolutions   int
	channels      [4]byte // see Layout in scripts/codecs/jpeg2000/decode.c
	ycc           bool    // the colours are YCbCr
	palette       []byte  // of four bytes for each of 256 indices; nil: none
	details       details
}

// A j2kComponent is one plane of samples.
type j2kComponent struct {
	bits   int
	signed bool
	dx, dy int // pixels between two samples
}

const j2kNoChannel = 255

func j2kError(text string) error { return errors.New("jpeg 2000: " + text) }

func unsupportedJ2K(what string) error { return unsupported("JPEG 2000", what) }

// UUIDs of the boxes that hold metadata in a JP2 file.
var (
	j2kEXIF = []byte("JpgTiffExif->JP2")
	j2kXMP  = []byte{0xbe, 0x7a, 0xcf, 0xcb, 0x97, 0xa9, 0x42, 0xe8, 0x9c, 0x71, 0x99, 0x94, 0x91, 0xe3, 0xaf, 0xac}
)

// parseJ2K reads the boxes and the main header of the codestream.
func parseJ2K(data []byte) (*jpeg2000, error) {
	j := new(jpeg2000)
	if data[0] == 0xff {
		j.codestream = data
		if err := j.readCodestream(); err != nil {
			return nil, err
		}
		return j, j.assign(nil)
	}
	var header []byte
	err := eachBox(data, func(b box) error {
		switch {
		case b.kind == "jp2h" && header == nil:
			header = b.data
		case b.kind == "jp2c" && j.codestream == nil:
			j.codestream = b.data
		case b.kind == "uuid" && bytes.HasPrefix(b.data, j2kEXIF) && j.details.exif == nil:
			j.details.exif = b.data[len(j2kEXIF):]
		case b.kind == "uuid" && bytes.HasPrefix(b.data, j2kXMP) && j.details.xmp == nil:
			j.details.xmp = b.data[len(j2kXMP):]
		}
		return nil
	})
	switch {
	case j.codestream != nil && header != nil: // what follows may be cut off
	case err != nil:
		return nil, err
	default:
		return nil, j2kError("no image")
	}
	if err := j.readCodestream(); err != nil {
		return nil, err
	}
	boxes := map[string][]byte{}
	err = eachBox(header, func(b box) error {
		if _, twice := boxes[b.kind]; !twice {
			boxes[b.kind] = b.data
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return j, j.assign(boxes)
}

// readCodestream reads the markers before the first tile.
func (j *jpeg2000) readCodestream() error {
	const (
		soc, siz, cod, sot = 0xff4f, 0xff51, 0xff52, 0xff90
		mct                = 0xff74 // and the others of part 2's transforms
	)
	f := fields{data: j.codestream}
	if f.number(2) != soc || f.number(2) != siz {
		return j2kError("no SIZ marker")
	}
	length := int(f.number(2))
	if length < 2 || length-2 > len(f.data) {
		return io.ErrUnexpectedEOF
	}
	if err := j.readSize(fields{data: f.data[:length-2]}); err != nil {
		return err
	}
	f.data = f.data[length-2:]
	for {
		marker, length := f.number(2), int(f.number(2))
		if marker == sot {
			break
		}
		if f.short || length < 2 || length-2 > len(f.data) {
			return io.ErrUnexpectedEOF
		}
		content := f.data[:length-2]
		f.data = f.data[length-2:]
		const ofStyle = 10
		switch {
		case marker == cod && len(content) >= ofStyle:
			j.resolutions = int(content[5]) + 1
			j.blockSize = 1 << (int(content[6]&0xf) + 2 + int(content[7]&0xf) + 2)
		case marker >= mct && marker <= mct+4:
			return unsupportedJ2K("a transform of the components of part 2")
		}
	}
	if j.blockSize == 0 {
		return j2kError("no COD marker")
	}
	return nil
}

// readSize reads a SIZ marker.
func (j *jpeg2000) readSize(f fields) error {
	f.number(2) // capabilities
	var n [8]int
	for i := range n {
		n[i] = int(f.number(4))
	}
	count := int(f.number(2))
	const right, bottom, left, top, tileWidth, tileHeight, tileLeft, tileTop = 0, 1, 2, 3, 4, 5, 6, 7
	if f.short {
		return f.err()
	}
	j.width, j.height = n[right]-n[left], n[bottom]-n[top]
	if j.width < 1 || j.height < 1 || n[tileWidth] < 1 || n[tileHeight] < 1 || n[tileLeft] > n[left] || n[tileTop] > n[top] {
		return j2kError("bad size")
	}
	j.tileW, j.tileH = min(n[tileWidth], j.width), min(n[tileHeight], j.height)
	across := (n[right]-n[tileLeft]-1)/n[tileWidth] + 1
	down := (n[bottom]-n[tileTop]-1)/n[tileHeight] + 1
	const mostTiles = 65535
	if across > mostTiles || down > mostTiles || across*down > mostTiles {
		return j2kError("too many tiles")
	}
	j.tiles = across * down
	const most = 4
	if count < 1 || count > most {
		return unsupportedJ2K(fmt.Sprintf("%d components", count))
	}
	for range count {
		depth := f.number(1)
		c := j2kComponent{bits: int(depth&0x7f) + 1, signed: depth&0x80 != 0, dx: int(f.number(1)), dy: int(f.number(1))}
		if f.short {
			return f.err()
		}
		if c.dx < 1 || c.dy < 1 || c.dx > j.width || c.dy > j.height {
			return j2kError("bad distance of samples")
		}
		if c.bits > 16 {
			return unsupportedJ2K(fmt.Sprintf("samples of %d bits", c.bits))
		}
		j.components = append(j.components, c)
	}
	return nil
}

// assign says what the components mean: the boxes of the header, or their number alone.
func (j *jpeg2000) assign(boxes map[string][]byte) error {
	const srgb, gray, sycc = 16, 17, 18
	space := 0
	if colr := boxes["colr"]; len(colr) >= 3 {
		const enumerated, restricted, anyProfile, head = 1, 2, 3, 3
		switch f := (fields{data: colr[head:]}); colr[0] {
		case enumerated:
			if space = int(f.number(4)); space != srgb && space != gray && space != sycc {
				return unsupportedJ2K(fmt.Sprintf("the colour space %d", space))
			}
		case restricted, anyProfile:
			icc := colr[head:]
			j.details.icc, j.details.iccSize, j.details.iccHead = icc, len(icc), headOf(icc)
		}
	}
	count := len(j.components)
	switch count {
	case 1, 2:
		j.channels = [4]byte{0, 0, 0, j2kNoChannel}
	default:
		j.channels = [4]byte{0, 1, 2, j2kNoChannel}
		// A codestream without boxes has chroma if the components say so by their sizes.
		j.ycc = space == sycc || space == 0 && j.details.icc == nil && j.components[1].dx > j.components[0].dx
	}
	if count%2 == 0 {
		j.channels[3] = byte(count - 1)
	}
	if palette := boxes["pclr"]; palette != nil {
		if err := j.readPalette(palette, boxes["cmap"]); err != nil {
			return err
		}
	}
	return j.reorder(boxes["cdef"])
}

// readPalette reads the colours of an image of indices.
func (j *jpeg2000) readPalette(palette, mapping []byte) error {
	const most = 256
	f := fields{data: palette}
	count, columns := int(f.number(2)), int(f.number(1))
	if f.short || count < 1 {
		return j2kError("bad palette")
	}
	if len(j.components) != 1 || columns < 3 || columns > 4 || count > most || j.components[0].bits > 8 {
		return unsupportedJ2K("such a palette")
	}
	for range columns {
		if depth := f.number(1); depth != 7 {
			return unsupportedJ2K("a palette of other than 8 bits")
		}
	}
	j.palette = make([]byte, 4*most)
	for i := range count {
		for c := range columns {
			j.palette[4*i+c] = byte(f.number(1))
		}
	}
	j.channels[3] = j2kNoChannel
	for c := range columns {
		j.channels[c] = byte(c)
	}
	const entry, direct = 4, 0
	for c := 0; c < columns && len(mapping) >= entry; c, mapping = c+1, mapping[entry:] {
		if mapping[2] == direct || int(mapping[3]) >= columns {
			return unsupportedJ2K("such a palette")
		}
		j.channels[c] = mapping[3]
	}
	return f.err()
}

// reorder puts the channels into the order that a channel definition box tells, and drops what is no alpha.
func (j *jpeg2000) reorder(definitions []byte) error {
	if len(definitions) < 2 {
		return nil
	}
	const colour, opacity, premultiplied = 0, 1, 2
	count := len(j.components)
	if j.palette != nil {
		count = 4
	}
	channels := j.channels
	channels[3] = j2kNoChannel
	f := fields{data: definitions[2:]}
	for range binary.BigEndian.Uint16(definitions) {
		number, kind, of := int(f.number(2)), f.number(2), int(f.number(2))
		if f.short || number >= count {
			return j2kError("bad definition of a channel")
		}
		from := byte(number)
		if j.palette != nil {
			from = j.channels[number]
		}
		switch {
		case kind == colour && of >= 1 && of <= 3 && count > 2:
			channels[of-1] = from
		case kind == colour && of == 1:
			channels[0], channels[1], channels[2] = from, from, from
		case kind == opacity:
			channels[3] = from
		case kind == premultiplied:
			return unsupportedJ2K("colours multiplied by their alpha")
		}
	}
	j.channels = channels
	return nil
}

func (j *jpeg2000) gray() bool { return j.palette == nil && len(j.components) < 3 }

func (j *jpeg2000) deep() bool {
	return slices.ContainsFunc(j.components, func(c j2kComponent) bool { return c.bits > 8 })
}

// samples returns how many samples a rectangle has, in all components.
func (j *jpeg2000) samples(width, height int) int64 {
	sum := int64(0)
	for _, c := range j.components {
		sum += int64((width+c.dx-1)/c.dx+1) * int64((height+c.dy-1)/c.dy+1)
	}
	return sum
}

// memory returns the size of the WebAssembly memory that OpenJPEG needs for a file whose tiles don't deviate from the header.
func (j *jpeg2000) memory() int64 {
	const (
		fixed    = 4 << 20
		ofSample = 4
		ofBlock  = 700 // of a code block: its record, its segments, and its nodes in trees
		ofTile   = 12 << 10
		ofColumn = 100 // of the longer side: wavelets of eight rows
		ofPixel  = 3*2 + 1
	)
	all := j.samples(j.width, j.height)
	inTile := j.samples(j.tileW, j.tileH)
	need := fixed + ofSample*all + 3*int64(len(j.codestream)) + ofTile*int64(j.tiles)
	if j.tiles > 1 {
		need += ofSample * inTile
	}
	blocks := inTile/int64(j.blockSize)*2 + int64(3*j.resolutions*len(j.components))
	return need + ofBlock*blocks + ofColumn*int64(max(j.width, j.height)) + ofPixel*int64(j.width)*int64(rowsOfModule(j.width, j.height))
}

func jpeg2000Header(data []byte) (header, error) {
	j, err := parseJ2K(data)
	if err != nil {
		return header{}, err
	}
	h := header{
		kind: "a JPEG 2000", width: j.width, height: j.height, orientation: torch.Upright, jpeg2000: j,
		gray: j.gray(), palette: j.palette != nil, deep: j.deep(), alpha: j.channels[3] != j2kNoChannel,
	}
	if max(h.width, h.height) > torch.MaxSide {
		return h, nil // checkPixels refuses it
	}
	h.memory, h.alphaMemory = j.memory(), int64(j.width)*int64(rowsOfModule(j.width, j.height))
	// As much as photographs of 24 megapixels take, which are accepted in every format.
	h.budgets = 6
	const rowsOfWavelet = 8
	h.step = picoseconds(max(h.width, h.height)) * rowsOfWavelet * perWavelet
	h.work = rowsWork(h.width, h.height) + picoseconds(j.samples(h.width, h.height))*perWavelet +
		picoseconds(len(data))*perJ2KByte + picoseconds(j.tiles)*perJ2KTile
	return h, nil
}

func jpeg2000Details(data []byte) details {
	j, err := parseJ2K(data)
	if err != nil {
		return details{}
	}
	return j.details
}

func decodeJPEG2000(in *Input, s *sink) error {
	j := in.header.jpeg2000
	kind := uint64(0)
	const ycc, palette = 1, 2
	switch {
	case j.palette != nil:
		kind = palette
	case j.ycc:
		kind = ycc
	}
	channels := j.channels
	if !s.wantsAlpha() {
		channels[3] = j2kNoChannel
	}
	return jpeg2000Decoder.decodeRows(in, s, perJ2KUnit, [][]byte{j.codestream, j.palette}, uint64(len(j.codestream)),
		uint64(j.width), uint64(j.height), uint64(rowsOfModule(j.width, j.height)), uint64(binary.LittleEndian.Uint32(channels[:])), kind)
}
