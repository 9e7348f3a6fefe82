package imagecodec

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A Tiling is how an image is cut into tiles of one size, which overlap, and how the results of the tiles become one.
//
// The tiles cover the image as it would go through the model whole: with its reflection up to the next multiple. They begin
// at multiples of Config.MultipleOf, so that a model which halves the sides finds each pixel at the same place of its grid as
// in the whole image. In the middle of what two neighbours have in common lies the seam, Config.Overlap pixels wide, over
// which their results are blended. So a pixel's result comes from tiles that see at least half of that beyond it on each
// side.
//
// Neighbouring seams have no pixel in common, because settings.Settings has checked it: at each pixel two tiles at most are
// blended in a row, and two rows.
type Tiling struct {
	Width, Height int // of each tile
	image         settings.Size
	columns, rows axis
}

// An axis is a Tiling in one direction.
type axis struct {
	starts []int
	tile   int // length
	seams  []span
}

// A span is the pixels from begin to before end.
type span struct{ begin, end int }

// tiling returns the tiles of an image, whose area is larger than a tile.
func (c *Config) tiling(img, area settings.Size) *Tiling {
	seam := c.Overlap
	if c.Output == settings.Classes {
		seam = 0 // class numbers can't be blended
	}
	t := &Tiling{image: img, columns: newAxis(area.Width, c.Tile, c.TileStride, seam), rows: newAxis(area.Height, c.Tile, c.TileStride, seam)}
	t.Width, t.Height = t.columns.tile, t.rows.tile
	return t
}

// newAxis returns tiles that begin at multiples of stride. The last one ends with the area.
func newAxis(length, tile, stride, seam int) axis {
	a := axis{starts: []int{0}, tile: min(tile, length)}
	for last := 0; last+a.tile < length; {
		next := min(last+stride, length-a.tile)
		begin := (next+last+a.tile)/2 - seam/2
		a.seams = append(a.seams, span{begin, begin + seam})
		a.starts = append(a.starts, next)
		last = next
	}
	return a
}

// seam returns the seam between the tile i and the one before it. Before the first and after the last tile it is empty.
func (a *axis) seam(i int) span {
	switch i {
	case 0:
		return span{0, 0}
	case len(a.starts):
		end := a.starts[i-1] + a.tile
		return span{end, end}
	}
	return a.seams[i-1]
}

// Count returns the number of tiles.
func (t *Tiling) Count() int { return len(t.columns.starts) * len(t.rows.starts) }

// Tiling returns the tiles in which the image goes through the model; nil: it goes whole.
func (in *Input) Tiling() *Tiling { return in.placement.tiling }

// Cut returns tiles of an image, which are numbered by rows. The caller must recycle them. Cut returns the context's cause if
// the context ends while it waits for a slot, and soon after it ends while it works.
func (c *Codec) Cut(ctx context.Context, t *Tiling, img Image, from, to int) ([]Image, error) {
	release, err := c.queue.Acquire(ctx, cpu.Decoding)
	if err != nil {
		return nil, err
	}
	defer release()
	tiles := make([]Image, 0, to-from)
	for number := from; number < to; number++ {
		if ctx.Err() != nil {
			c.recycleAll(tiles)
			return nil, context.Cause(ctx)
		}
		tiles = append(tiles, c.cut(t, img, number))
	}
	return tiles, nil
}

func (c *Codec) recycleAll(images []Image) {
	for _, img := range images {
		c.Recycle(img.Pixels)
	}
}

func (c *Codec) cut(t *Tiling, img Image, number int) Image {
	left, top := t.columns.starts[number%len(t.columns.starts)], t.rows.starts[number/len(t.columns.starts)]
	tile := Image{Width: t.Width, Height: t.Height, Channels: 3, Pixels: c.Alloc(t.Width * t.Height * 3)}
	inside := min(t.Width, img.Width-left)
	for y := range t.Height {
		from := img.Pixels[3*img.Width*reflect(top+y, img.Height):][:3*img.Width]
		to := tile.Pixels[3*t.Width*y:][:3*t.Width]
		copy(to, from[3*left:][:3*inside])
		for x := inside; x < t.Width; x++ {
			copy(to[3*x:3*x+3], from[3*reflect(left+x, img.Width):])
		}
	}
	return tile
}

// A Mosaic joins the outputs of an image's tiles. It must not be used by two goroutines at the same time.
type Mosaic struct {
	codec    *Codec
	tiling   *Tiling
	scale    int
	result   Image // without pixels before the first tile
	previous Image // the output of the tile before, which the next one's seam needs
	next     int   // number of the next tile
	row      []byte
}

// NewMosaic returns a Mosaic. The caller must Close it.
func (c *Codec) NewMosaic(t *Tiling) *Mosaic { return &Mosaic{codec: c, tiling: t} }

// An OutputError is the error for an output of a tile that can't be joined with others.
type OutputError struct{ Text string }

func (e *OutputError) Error() string { return e.Text }

// CheckTileOutput returns an *OutputError if the outputs of tiles of a size can't be joined.
func CheckTileOutput(tile settings.Size, output Image) error {
	if ScaleOf(tile, settings.Size{Width: output.Width, Height: output.Height}) > 0 {
		return nil
	}
	return &OutputError{fmt.Sprintf("tiles need an output of the input's size or its multiple, but that of a tile of %dx%d is %dx%d: remove tile from the settings",
		tile.Width, tile.Height, output.Width, output.Height)}
}

// Add joins the outputs of the next tiles, in order. It takes them over, also beside an error. Errors: *OutputError; the
// context's cause, as for Cut.
func (m *Mosaic) Add(ctx context.Context, outputs []Image) error {
	release, err := m.codec.queue.Acquire(ctx, cpu.Encoding)
	if err != nil {
		m.codec.recycleAll(outputs)
		return err
	}
	defer release()
	for i, output := range outputs {
		if err = m.check(output); err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			m.codec.recycleAll(outputs[i:])
			return err
		}
		m.add(output)
	}
	return nil
}

func (m *Mosaic) check(output Image) error {
	tile := settings.Size{Width: m.tiling.Width, Height: m.tiling.Height}
	if err := CheckTileOutput(tile, output); err != nil {
		return err
	}
	if m.next == 0 {
		m.scale = output.Width / tile.Width
		m.result = m.codec.scratch(m.scale*m.tiling.image.Width, m.scale*m.tiling.image.Height, output.Channels)
		m.row = make([]byte, output.Width*output.Channels)
	}
	if output.Width != m.scale*tile.Width || output.Channels != m.result.Channels {
		return &OutputError{fmt.Sprintf("the outputs of the tiles of one image differ: %dx%d with %d bytes for a pixel, and %dx%d with %d",
			m.scale*tile.Width, m.scale*tile.Height, m.result.Channels, output.Width, output.Height, output.Channels)}
	}
	return nil
}

// add writes the part of the result that is complete with this tile: up to the seam to the right neighbour, and down to the
// end of the seam to the lower one. What lies in that seam, the lower neighbour blends with its own.
func (m *Mosaic) add(output Image) {
	columns, rows := &m.tiling.columns, &m.tiling.rows
	column, row := m.next%len(columns.starts), m.next/len(columns.starts)
	before, after := m.scaled(columns.seam(column)), m.scaled(columns.seam(column+1))
	above, below := m.scaled(rows.seam(row)), m.scaled(rows.seam(row+1))
	left, top := m.scale*columns.starts[column], m.scale*rows.starts[row]
	begin, end := before.begin, min(after.begin, m.result.Width)
	channels := output.Channels
	if begin < end {
		part := m.row[:(end-begin)*channels]
		for y := above.begin; y < min(below.end, m.result.Height); y++ {
			line := output.Pixels[(y-top)*output.Width*channels:][:output.Width*channels]
			copy(part, line[(begin-left)*channels:])
			if before.end > before.begin {
				shift := m.scale * (columns.starts[column] - columns.starts[column-1]) // of the tile before
				other := m.previous.Pixels[(y-top)*output.Width*channels:][(begin-left+shift)*channels:]
				for x := begin; x < min(before.end, end); x++ {
					at := (x - begin) * channels
					m.blend(part[at:at+channels], other[at:at+channels], x, before)
				}
			}
			to := m.result.Pixels[(y*m.result.Width+begin)*channels:][:len(part)]
			if y < above.end {
				m.blend(part, to, y, above)
			}
			copy(to, part)
		}
	}
	m.codec.Recycle(m.previous.Pixels)
	m.previous = output
	m.next++
}

func (m *Mosaic) scaled(s span) span { return span{m.scale * s.begin, m.scale * s.end} }

// blend sets the pixels of the second of two neighbours, at a place of the seam between them, to the mean of both, in which
// the second weighs the more the further in it the place is.
func (m *Mosaic) blend(second, first []byte, at int, seam span) {
	whole := 2 * (seam.end - seam.begin)
	weight := 2*(at-seam.begin) + 1
	if m.codec.config.Output == settings.Chroma { // two signed numbers of 16 bits
		for i := 0; i < len(second); i += 2 {
			a, b := int(int16(binary.LittleEndian.Uint16(first[i:]))), int(int16(binary.LittleEndian.Uint16(second[i:])))
			binary.LittleEndian.PutUint16(second[i:], uint16(a+(b-a)*weight/whole))
		}
		return
	}
	for i, b := range second {
		second[i] = byte((int(first[i])*(whole-weight) + int(b)*weight + whole/2) / whole)
	}
}

// Result returns the result, which has all tiles. The caller may recycle it.
func (m *Mosaic) Result() Image {
	result := m.result
	m.result = Image{}
	return result
}

// Close recycles what Result hasn't returned.
func (m *Mosaic) Close() {
	m.codec.Recycle(m.previous.Pixels)
	m.codec.Recycle(m.result.Pixels)
	m.previous, m.result = Image{}, Image{}
}

// Memory returns how many bytes the tiles of an image need, of which so many at a time are in the model, and the result of
// outputs that are scale times as large as their tiles. images is the number of the model's inputs that are cut.
func (t *Tiling) Memory(together, scale, images int) int64 {
	const channels = 4 // at most
	scale = max(1, scale)
	ofOutput := channels * int64(scale) * int64(scale)
	inputs := 2 * 3 * int64(together*images) // the next ones are cut while these are in the model
	return int64(t.Width)*int64(t.Height)*(inputs+int64(together+1)*ofOutput) + int64(t.image.Width)*int64(t.image.Height)*ofOutput
}
