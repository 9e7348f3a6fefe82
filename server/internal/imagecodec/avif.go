package imagecodec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/torchherd/torchherd/server/internal/colour"
	"github.com/torchherd/torchherd/torch"
)

// An avifFile is the primary image of an AVIF file whose container has been read. dav1d decodes it.
type avifFile struct {
	width, height int    // as stored
	data          []byte // AV1
	stated        bool   // the container states the kind of the colours; else the data do
	colours       avifColours
	orientation   torch.Orientation
	deep          bool      // more than 8 bits
	samples       int       // of two pixels by two: 4 without chroma, to 12
	alpha         *avifFile // an image without chroma, of the same size; nil: none
}

var errNoPrimaryImage = errors.New("no primary image")

// A box is a part of a file by ISO/IEC 14496-12.
type box struct {
	kind string
	data []byte
}

// nextBox returns the first box of the data and what follows it. A box of no size goes on to the end.
func nextBox(data []byte) (b box, rest []byte, err error) {
	const small, large = 8, 16 // bytes of a box's header
	if len(data) < small {
		return box{}, nil, io.ErrUnexpectedEOF
	}
	size, header := uint64(binary.BigEndian.Uint32(data)), uint64(small)
	switch size {
	case 0:
		size = uint64(len(data))
	case 1:
		if len(data) < large {
			return box{}, nil, io.ErrUnexpectedEOF
		}
		size, header = binary.BigEndian.Uint64(data[small:]), large
	}
	if size < header || size > uint64(len(data)) {
		return box{}, nil, io.ErrUnexpectedEOF
	}
	return box{string(data[4:8]), data[header:size]}, data[size:], nil
}

// eachBox calls use for each box of the data.
func eachBox(data []byte, use func(b box) error) error {
	for len(data) > 0 {
		b, rest, err := nextBox(data)
		if err != nil {
			return err
		}
		if err := use(b); err != nil {
			return err
		}
		data = rest
	}
	return nil
}

// A fields reads numbers, and keeps in mind whether there were enough bytes.
type fields struct {
	data  []byte
	short bool
}

// number reads a big-endian number of 0 to 8 bytes.
func (f *fields) number(size int) (n uint64) {
	if len(f.data) < size {
		f.data, f.short = nil, true
		return 0
	}
	for _, b := range f.data[:size] {
		n = n<<8 | uint64(b)
	}
	f.data = f.data[size:]
	return n
}

func (f *fields) err() error {
	if f.short {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// full reads the version and flags that many boxes begin with.
func (f *fields) full() (version, flags int) {
	n := f.number(4)
	return int(n >> 24), int(n & 0xffffff)
}

// A container is what the boxes of a file say about its primary item.
type container struct {
	format     string // for error texts
	file       []byte
	boxes      map[string][]byte // of the meta box, the first of each kind
	primary    uint64
	kind       string // of the primary item
	properties []box
	used       []int  // indices of the primary item's properties, from 0
	premul     bool   // its colours are multiplied by its alpha
	auxiliary  uint64 // the item that is beside the primary item, such as its alpha; 0: none
	pieces     []piece
	innerData  bool // the pieces lie in the box idat
}

type piece struct{ offset, size uint64 }

// isobmffKind returns the name of the format of a file that begins with a box of type ftyp: "" for those that aren't images.
func isobmffKind(data []byte) string {
	b, _, err := nextBox(data)
	if err != nil && len(data) >= 16 { // the file ends in it
		b = box{string(data[4:8]), data[8:]}
	}
	if b.kind != "ftyp" || len(b.data) < 8 {
		return ""
	}
	name := ""
	for at := 0; at+4 <= len(b.data); at += 4 {
		switch brand := string(b.data[at : at+4]); {
		case at == 4: // the version of the first brand
		case brand == "avif" || brand == "avis":
			return "AVIF"
		case brand == "heic" || brand == "heix" || brand == "heim" || brand == "heis" || brand == "hevc" || brand == "hevx" || brand == "mif1" || brand == "msf1":
			name = "HEIC"
		}
	}
	return name
}

// readContainer reads the boxes of a file of a format.
func readContainer(format string, data []byte) (*container, error) {
	c := &container{format: format, file: data}
	found := false
	var ofMeta error
	err := eachBox(data, func(b box) error {
		if b.kind == "meta" && !found {
			found, ofMeta = true, c.readMeta(b.data)
		}
		return ofMeta
	})
	if found { // what follows may be cut off
		err = ofMeta
	}
	return c, err
}

func parseAVIF(data []byte) (*avifFile, error) {
	c, err := readContainer("AVIF", data)
	if err != nil {
		return nil, err
	}
	switch c.kind {
	case "av01":
	case "grid":
		return nil, unsupported("AVIF", "a grid of images")
	case "":
		return nil, errNoPrimaryImage
	default:
		return nil, unsupported("AVIF", fmt.Sprintf("a primary image of the type %q", c.kind))
	}
	if c.premul {
		return nil, unsupported("AVIF", "colours multiplied by their alpha")
	}
	a, err := c.image()
	if err == nil {
		err = a.readAlpha(c)
	}
	return a, err
}

// image returns the primary item.
func (c *container) image() (*avifFile, error) {
	a := &avifFile{orientation: torch.Upright, samples: 12}
	err := a.readProperties(c)
	if err == nil {
		a.data, err = c.item()
	}
	return a, err
}

// readAlpha sets the alpha, if the item beside the primary item is that.
func (a *avifFile) readAlpha(c *container) error {
	beside, err := c.alpha()
	if err != nil || beside == nil || beside.kind != "av01" {
		return err
	}
	alpha, err := beside.image()
	if err != nil {
		return err
	}
	if alpha.width != a.width || alpha.height != a.height {
		return unsupported("AVIF", "alpha of another size")
	}
	a.alpha = alpha
	return nil
}

// alpha returns the item beside the primary item, if it is its alpha; nil: there is none.
func (c *container) alpha() (*container, error) {
	if c.auxiliary == 0 {
		return nil, nil
	}
	beside := &container{format: c.format, file: c.file, boxes: c.boxes, primary: c.auxiliary}
	if err := beside.readItem(); err != nil {
		return nil, err
	}
	if !beside.isAlpha() {
		return nil, nil
	}
	return beside, nil
}

// isAlpha reports whether the primary item's auxC property says that it is an alpha.
func (c *container) isAlpha() bool {
	for _, i := range c.used {
		if i < len(c.properties) && c.properties[i].kind == "auxC" {
			text := string(c.properties[i].data)
			return strings.Contains(text, "urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\x00") || strings.Contains(text, "urn:mpeg:hevc:2015:auxid:1\x00")
		}
	}
	return false
}

func (c *container) readMeta(data []byte) error {
	f := fields{data: data}
	f.full()
	boxes := map[string][]byte{}
	err := eachBox(f.data, func(b box) error {
		if boxes[b.kind] == nil {
			boxes[b.kind] = b.data
		}
		return nil
	})
	if err != nil {
		return err
	}
	p := fields{data: boxes["pitm"]}
	size := 2
	if version, _ := p.full(); version > 0 {
		size = 4
	}
	c.primary, c.boxes = p.number(size), boxes
	return errors.Join(p.err(), c.readItem())
}

// readItem reads what the boxes say about the primary item.
func (c *container) readItem() error {
	return errors.Join(c.readKind(c.boxes["iinf"]), c.readPlace(c.boxes["iloc"]), c.readAssociations(c.boxes["iprp"]), c.readReferences(c.boxes["iref"]))
}

// readKind finds the type of the primary item.
func (c *container) readKind(data []byte) error {
	f := fields{data: data}
	if version, _ := f.full(); version == 0 {
		f.number(2)
	} else {
		f.number(4)
	}
	if f.short {
		return f.err()
	}
	return eachBox(f.data, func(b box) error {
		i := fields{data: b.data}
		version, _ := i.full()
		size := 2
		if version == 3 {
			size = 4
		}
		if version < 2 || i.number(size) != c.primary || c.kind != "" {
			return nil
		}
		i.number(2)
		if len(i.data) < 4 {
			return io.ErrUnexpectedEOF
		}
		c.kind = string(i.data[:4])
		return nil
	})
}

// readPlace finds where the primary item is.
func (c *container) readPlace(data []byte) error {
	f := fields{data: data}
	version, _ := f.full()
	sizes, more := f.number(1), f.number(1)
	ofOffset, ofLength, ofBase, ofIndex := int(sizes>>4), int(sizes&15), int(more>>4), 0
	ofID := 2
	if version == 2 {
		ofID = 4
	}
	if version > 0 {
		ofIndex = int(more & 15)
	}
	if max(ofOffset, ofLength, ofBase, ofIndex) > 8 || version > 2 {
		return errors.New("bad sizes of the places of items")
	}
	for items := f.number(ofID); items > 0 && !f.short; items-- {
		id := f.number(ofID)
		method := uint64(0)
		if version > 0 {
			method = f.number(2) & 15
		}
		f.number(2) // in another file
		base := f.number(ofBase)
		for pieces := f.number(2); pieces > 0 && !f.short; pieces-- {
			f.number(ofIndex)
			p := piece{base + f.number(ofOffset), f.number(ofLength)}
			if id == c.primary {
				c.pieces, c.innerData = append(c.pieces, p), method == 1
			}
		}
		if id == c.primary && method > 1 {
			return unsupported(c.format, "an image inside of another item")
		}
	}
	return f.err()
}

// item returns the data of the primary item.
func (c *container) item() ([]byte, error) {
	from := c.file
	if c.innerData {
		from = c.boxes["idat"]
	}
	var out []byte
	for _, p := range c.pieces {
		if p.offset > uint64(len(from)) {
			return nil, io.ErrUnexpectedEOF
		}
		rest := from[p.offset:]
		if p.size == 0 {
			p.size = uint64(len(rest))
		}
		if p.size > uint64(len(rest)) {
			return nil, io.ErrUnexpectedEOF
		}
		if len(c.pieces) == 1 {
			return rest[:p.size], nil
		}
		if uint64(len(out))+p.size > uint64(len(from)) {
			return nil, errors.New("the pieces of the image overlap")
		}
		out = append(out, rest[:p.size]...)
	}
	if len(out) == 0 {
		return nil, errors.New("no data")
	}
	return out, nil
}

// readAssociations reads the properties, and which are the primary item's.
func (c *container) readAssociations(data []byte) error {
	return eachBox(data, func(b box) error {
		switch b.kind {
		case "ipco":
			return eachBox(b.data, func(property box) error {
				c.properties = append(c.properties, property)
				return nil
			})
		case "ipma":
			return c.readAssociation(b.data)
		}
		return nil
	})
}

func (c *container) readAssociation(data []byte) error {
	f := fields{data: data}
	version, flags := f.full()
	ofID, ofIndex := 2, 1
	if version > 0 {
		ofID = 4
	}
	if flags&1 != 0 {
		ofIndex = 2
	}
	for items := f.number(4); items > 0 && !f.short; items-- {
		id := f.number(ofID)
		for n := f.number(1); n > 0; n-- {
			index := f.number(ofIndex) &^ (1 << (8*ofIndex - 1)) // without whether it is essential
			if id == c.primary && index > 0 {
				c.used = append(c.used, int(index)-1)
			}
		}
	}
	return f.err()
}

func (c *container) readReferences(data []byte) error {
	if data == nil {
		return nil
	}
	f := fields{data: data}
	ofID := 2
	if version, _ := f.full(); version > 0 {
		ofID = 4
	}
	return eachBox(f.data, func(b box) error {
		c.premul = c.premul || b.kind == "prem"
		if b.kind != "auxl" {
			return nil
		}
		r := fields{data: b.data}
		from := r.number(ofID)
		for n := r.number(2); n > 0 && !r.short; n-- {
			if r.number(ofID) == c.primary && c.auxiliary == 0 {
				c.auxiliary = from
			}
		}
		return r.err()
	})
}

func (a *avifFile) readProperties(c *container) error {
	turns, mirror := 0, -1
	for _, i := range c.used {
		if i >= len(c.properties) {
			return errors.New("a property that isn't there")
		}
		p := c.properties[i]
		f := fields{data: p.data}
		switch p.kind {
		case "ispe":
			f.full()
			a.width, a.height = int(f.number(4)), int(f.number(4))
		case "av1C":
			f.number(1)
			f.number(1)
			flags := f.number(1)
			a.deep = flags&0x40 != 0
			switch {
			case flags&0x10 != 0: // no chroma
				a.samples = 4
			case flags&0xc == 0xc:
				a.samples = 6
			case flags&8 != 0:
				a.samples = 8
			}
		case "colr":
			if len(f.data) < 4 {
				return io.ErrUnexpectedEOF
			}
			kind := string(f.data[:4])
			switch f.data = f.data[4:]; kind {
			case "nclx":
				a.stated = true
				a.colours.primaries, a.colours.transfer, a.colours.matrix = f.number(2), f.number(2), f.number(2)
				a.colours.full = f.number(1)&0x80 != 0
			case "prof", "rICC":
				a.colours.icc = f.data
			}
		case "irot":
			turns = int(f.number(1)) & 3
		case "imir":
			mirror = int(f.number(1)) & 1
		}
		if f.short {
			return f.err()
		}
	}
	a.orientation = turned(turns, mirror)
	return nil
}

// avifColours are what an AVIF states about its colours: numbers of ITU-T H.273, and a profile.
type avifColours struct {
	primaries, transfer, matrix uint64
	full                        bool   // samples have their full range
	icc                         []byte // nil: none
}

// details returns what counts for the conversion: the profile, if there is one, or else numbers that don't mean sRGB, as
// nearly all do.
func (c *avifColours) details() details {
	if len(c.icc) > 0 {
		return details{icc: c.icc, iccSize: len(c.icc), iccHead: headOf(c.icc)}
	}
	// 255 is reserved, as all numbers above are.
	numbers := [2]uint8{uint8(min(c.primaries, math.MaxUint8)), uint8(min(c.transfer, math.MaxUint8))}
	if t, err := colour.FromCICP(numbers[0], numbers[1]); t == nil && err == nil {
		return details{}
	}
	return details{cicp: numbers}
}

// turned returns the orientation of quarter turns to the left, and then a mirror: -1 for none, 0 for top to bottom, 1 for left
// to right.
func turned(turns, mirror int) torch.Orientation {
	return [3][4]torch.Orientation{{1, 8, 3, 6}, {4, 5, 2, 7}, {2, 7, 4, 5}}[mirror+1][turns]
}

// memory returns the size of the WebAssembly memory that dav1d needs at most for an image of one frame.
func (a *avifFile) memory() int64 {
	const (
		fixed    = 10 << 20 // code's data, the stack, the context of a tile, and tables
		ofColumn = 600      // rows of filters and predictors
		side     = 128      // pictures and their blocks are padded to it
	)
	width, height := (int64(a.width)+2*side)/side*side, (int64(a.height)+2*side)/side*side
	ofSample := int64(1)
	if a.deep {
		ofSample = 2
	}
	// The picture, and one with its grain; levels, masks and vectors of blocks.
	need := 2*width*height*ofSample*int64(a.samples)/4 + 2*width*height
	return fixed + int64(len(a.data)) + need + ofColumn*width + 3*ofSample*int64(a.width)*int64(rowsOfModule(a.width, a.height))
}

func avifHeader(data []byte) (header, error) {
	a, err := parseAVIF(data)
	if err != nil {
		return header{}, err
	}
	h := header{kind: "an AVIF", width: a.width, height: a.height, orientation: a.orientation, avif: a, details: a.colours.details(), deep: a.deep}
	if a.width < 1 || a.height < 1 || a.width > torch.MaxSide || a.height > torch.MaxSide {
		return h, nil // checkPixels refuses it
	}
	h.memory = a.memory()
	// AV1 costs several times as much as other formats, and photographs of 24 megapixels are accepted in every format.
	h.budgets = 3
	const rowsOfBlock = 128
	h.step = picoseconds(a.width) * rowsOfBlock * perAV1Filtered
	h.work = rowsWork(a.width, a.height) + picoseconds(a.width)*picoseconds(a.height)*perYCbCr + a.decoding()
	if a.alpha != nil {
		h.alpha = true
		h.alphaMemory = max(0, a.alpha.memory()-h.memory)
		h.alphaWork = picoseconds(a.width)*picoseconds(a.height)*perYCbCr + a.alpha.decoding()
	}
	return h, nil
}

// decoding returns the work of decoding one frame of an image without any symbol. The symbols are counted while they are
// decoded, and the frames too.
func (a *avifFile) decoding() picoseconds {
	const unit = 64 // pixels of a side of a block
	blocks := picoseconds((a.width+unit-1)/unit) * picoseconds((a.height+unit-1)/unit)
	return blocks * unitsOfAV1Block * perAV1Symbol
}

func decodeAVIF(in *Input, s *sink) error {
	a, counted := in.header.avif, *in
	counted.work -= a.decoding()
	if s.wantsAlpha() {
		counted.work -= a.alpha.decoding()
		plane := make([]byte, 0, a.width*a.height)
		collecting := &sink{ctx: s.ctx, width: s.width, height: s.height, collect: func(level byte) { plane = append(plane, level) }}
		if err := a.alpha.decode(&counted, collecting); err != nil {
			return err
		}
		s.plane = plane
	}
	return a.decode(&counted, s)
}

// decode decodes the image into a sink, and adds the work to the Input's.
func (a *avifFile) decode(in *Input, s *sink) error {
	matrix, full := int32(-1), uint64(0) // those of the data
	if a.stated {
		matrix = int32(a.colours.matrix)
	}
	if a.colours.full {
		full = 1
	}
	return avifDecoder.decodeRows(in, s, perAV1Symbol, [][]byte{a.data}, uint64(a.width), uint64(a.height), uint64(uint32(matrix)), full, uint64(rowsOfModule(a.width, a.height)))
}
