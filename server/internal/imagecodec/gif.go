package imagecodec

import (
	"compress/lzw"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/torchherd/torchherd/torch"
)

// A gifFile is the first frame of a GIF whose header has been read.
//
// The reader is this package's own, over the standard library's LZW, because image/gif makes transparent colours black, keeps
// the image, and refuses what other decoders show: frames that leave the screen, screens of no size, and pixels before or
// after what the frame needs.
type gifFile struct {
	width, height int // of the image
	colours       [256][3]byte
	background    byte // the index of pixels outside the frame
	transparent   bool // background is the index of transparent pixels

	left, top, frameWidth, frameHeight int // in the image
	skipped                            int // pixels of each row of the file that lie beyond the image
	rows                               int // in the file
	interlaced                         bool
	codeSize                           int
	data                               []byte // sub-blocks of compressed indices
}

func gifError(format string, arguments ...any) error { return fmt.Errorf("gif: "+format, arguments...) }

// parseGIF reads what lies before the first frame's pixels.
func parseGIF(data []byte) (*gifFile, error) {
	const header, frame = 13, 9 // bytes: with the screen's size; of a frame's
	if len(data) < header {
		return nil, io.ErrUnexpectedEOF
	}
	g := &gifFile{width: little16(data[6:]), height: little16(data[8:])}
	rest, err := g.palette(data[header:], data[10])
	if err != nil {
		return nil, err
	}
	for {
		if len(rest) == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		kind := rest[0]
		switch rest = rest[1:]; kind {
		case 0x21:
			if rest, err = g.extension(rest); err != nil {
				return nil, err
			}
		case 0x2c:
			if len(rest) < frame {
				return nil, io.ErrUnexpectedEOF
			}
			g.place(rest)
			g.interlaced = rest[8]&0x40 != 0
			if rest, err = g.palette(rest[frame:], rest[8]); err != nil {
				return nil, err
			}
			return g, g.open(rest)
		case 0x3b:
			return nil, gifError("no frame")
		case 0: // some files have zeros between their blocks
		default:
			return nil, gifError("unknown block: %#x", kind)
		}
	}
}

// palette reads a table of colours, if the flags say that there is one.
func (g *gifFile) palette(data []byte, flags byte) ([]byte, error) {
	if flags&0x80 == 0 {
		return data, nil
	}
	size := 3 << (flags&7 + 1)
	if len(data) < size {
		return nil, io.ErrUnexpectedEOF
	}
	clear(g.colours[:])
	for i := range size / 3 {
		copy(g.colours[i][:], data[3*i:])
	}
	return data[size:], nil
}

// extension reads the transparent index, and skips other extensions.
func (g *gifFile) extension(data []byte) ([]byte, error) {
	if len(data) >= 6 && data[0] == 0xf9 && data[1] >= 4 && data[2]&1 != 0 {
		g.background, g.transparent = data[5], true
	}
	if len(data) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	for rest := data[1:]; ; {
		if len(rest) == 0 || len(rest) <= int(rest[0]) {
			return nil, io.ErrUnexpectedEOF
		}
		size := int(rest[0])
		if rest = rest[1+size:]; size == 0 {
			return rest, nil
		}
	}
}

// place puts the frame into the image. A screen of no size has the frame's; what lies outside of another is cut off.
func (g *gifFile) place(frame []byte) {
	g.left, g.top, g.frameWidth, g.rows = little16(frame), little16(frame[2:]), little16(frame[4:]), little16(frame[6:])
	if g.width == 0 || g.height == 0 {
		g.width, g.height = g.left+g.frameWidth, g.top+g.rows
	}
	g.left = min(g.left, g.width)
	visible := max(0, min(g.frameWidth, g.width-g.left))
	g.skipped, g.frameWidth = g.frameWidth-visible, visible
	g.frameHeight = max(0, min(g.rows, g.height-g.top))
}

func (g *gifFile) open(data []byte) error {
	if len(data) == 0 {
		return io.ErrUnexpectedEOF
	}
	const longest = 8 // bits of an index
	if g.codeSize = int(data[0]); g.codeSize < 2 || g.codeSize > longest {
		return gifError("bad size of the codes: %d bits", g.codeSize)
	}
	g.data = data[1:]
	return nil
}

func little16(b []byte) int { return int(binary.LittleEndian.Uint16(b)) }

func gifHeader(data []byte) (header, error) {
	g, err := parseGIF(data)
	if err != nil {
		return header{}, err
	}
	h := header{kind: "a GIF", width: g.width, height: g.height, orientation: torch.Upright, palette: true, alpha: g.transparent, gif: g}
	stored := int64(g.frameWidth+g.skipped) * int64(g.rows)
	h.memory = int64(g.frameWidth+g.skipped) + 3*int64(g.width)
	if g.interlaced {
		h.memory += int64(g.frameWidth) * int64(g.frameHeight)
	}
	h.step = picoseconds(g.width+g.frameWidth+g.skipped) * perGIFPixel
	h.work = rowsWork(h.width, h.height) + picoseconds(len(data))*perGIFByte + picoseconds(stored)*perGIFPixel
	return h, nil
}

// decodeGIF decodes a GIF's first frame, extended to the GIF's whole area.
func decodeGIF(in *Input, s *sink) error {
	g := in.header.gif
	blocks := &gifBlocks{reader: reader{sink: s, data: g.data}}
	pixels := lzw.NewReader(blocks, lzw.LSB, g.codeSize)
	defer func() { _ = pixels.Close() }()
	row := make([]byte, g.frameWidth+g.skipped)
	next := func() ([]byte, error) {
		if err := s.err(); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(pixels, row); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		return row[:g.frameWidth], nil
	}
	if g.interlaced {
		whole, err := g.deinterlaced(next)
		if err != nil {
			return err
		}
		next = func() (part []byte, err error) {
			part, whole = whole[:g.frameWidth], whole[g.frameWidth:]
			return part, nil
		}
	}
	return g.push(s, next)
}

// deinterlaced returns the indices of all rows of the frame that lie in the image, in their order.
func (g *gifFile) deinterlaced(next func() ([]byte, error)) ([]byte, error) {
	whole := make([]byte, g.frameWidth*g.frameHeight)
	for _, pass := range [...]struct{ y, dy int }{{0, 8}, {4, 8}, {2, 4}, {1, 2}} {
		for y := pass.y; y < g.rows; y += pass.dy {
			row, err := next()
			if err != nil {
				return nil, err
			}
			if y < g.frameHeight {
				copy(whole[y*g.frameWidth:], row)
			}
		}
	}
	return whole, nil
}

// push resizes the rows of the image. next returns those of the frame.
func (g *gifFile) push(s *sink, next func() ([]byte, error)) error {
	outside := make([]byte, 3*g.width)
	for at := 0; at < len(outside); at += 3 {
		copy(outside[at:], g.colours[g.background][:])
	}
	for y := 0; y < g.height; y += s.rows {
		n := min(s.rows, g.height-y)
		band, alpha := s.reusable(n), s.alphaBand(n)
		clear(alpha) // outside the frame
		for k := range n {
			out := band[3*g.width*k:][:3*g.width]
			inFrame := y+k >= g.top && y+k < g.top+g.frameHeight
			if !inFrame || g.frameWidth < g.width {
				copy(out, outside)
			}
			if !inFrame {
				continue
			}
			row, err := next()
			if err != nil {
				return err
			}
			fromPalette(out[3*g.left:][:3*g.frameWidth], row, &g.colours)
			if len(alpha) > 0 {
				g.alphaOf(alpha[g.width*k+g.left:][:g.frameWidth], row)
			}
		}
		if err := s.pushBand(band, alpha); err != nil {
			return err
		}
	}
	return nil
}

// alphaOf sets out to the alpha of a row of indices.
func (g *gifFile) alphaOf(out, indices []byte) {
	for i, index := range indices {
		if index != g.background {
			out[i] = 0xff
		}
	}
}

// gifBlocks reads the contents of successive sub-blocks.
type gifBlocks struct {
	reader reader
	left   int // of the sub-block
}

func (b *gifBlocks) Read(p []byte) (int, error) {
	if err := b.reader.sink.err(); err != nil {
		return 0, err
	}
	if b.left == 0 {
		if len(b.reader.data) == 0 || b.reader.data[0] == 0 {
			return 0, io.EOF
		}
		b.left, b.reader.data = int(b.reader.data[0]), b.reader.data[1:]
	}
	n, err := b.reader.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// ReadByte is what the decompressor reads by.
func (b *gifBlocks) ReadByte() (byte, error) {
	if b.left > 0 && len(b.reader.data) > 0 {
		c := b.reader.data[0]
		b.left, b.reader.data = b.left-1, b.reader.data[1:]
		return c, nil
	}
	var one [1]byte
	_, err := b.Read(one[:])
	return one[0], err
}
