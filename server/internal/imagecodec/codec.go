// Package imagecodec turns the bytes that a client sends into the pixels that a model takes, and back.
//
// JPEG goes through libjpeg-turbo, in C; all other formats through decoders written in Go, so that one C parser
// alone faces the network. The resize is one for all (package torch).
//
// Only so many goroutines decode and encode at a time as there are cpu.Slots, for all Codecs together: the work is pure
// computing, so many more at once than there are cores only cost memory. Encoding goes before decoding.
package imagecodec

import (
	"context"
	"errors"
	"fmt"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/torch"
)

// A Image is pixels in memory: Height rows of Width pixels of Channels bytes each, from the top.
type Image struct {
	Width, Height int
	Channels      int // 3 RGB, or 1 grey, which only a model's answer can be
	Pixels        []byte
}

// DefaultMaxPixels is the size above which Pillow warns of a decompression bomb: a quarter of a gigabyte at three
// bytes a pixel.
const DefaultMaxPixels = 1024 * 1024 * 1024 / 4 / 3

// DefaultQuality is Pillow's JPEG quality.
const DefaultQuality = 75

// Config says how a Codec works.
type Config struct {
	Slots     *cpu.Slots // may be shared with other Codecs
	Weight    int        // of this Codec among those that share the Slots; 1 or more
	MaxPixels int64      // of a picture as sent, checked before memory is taken; 1 or more
	// Width and Height are the size that pictures are resized to; both 0 leaves each at its own size, or near it: see
	// MultipleOf and MaxSide.
	Width, Height int
	// MultipleOf is what each side becomes a multiple of, the nearest one; 0 or 1: any number. For pictures that are left
	// at their own size.
	MultipleOf int
	// MaxSide is how long a side can be; a larger picture is made smaller, its shape kept. 0: as long as it is. Likewise.
	MaxSide int
	Filter  torch.Filter // of the resize
	Quality int          // of JPEG answers, 1 to 100
	// KeepOrientation leaves pictures as they are stored instead of turning them as their EXIF data says.
	KeepOrientation bool
	// ScaledDecode decodes a JPEG that is at least twice as large as Width x Height at a half, a quarter or an eighth of
	// its size: faster, and not the same pixels.
	ScaledDecode bool
	// RefusePalette answers palette pictures with NotRGB instead of looking their colours up.
	RefusePalette bool
	// Grayscale makes grey pictures RGB with three equal channels instead of answering them with NotRGB.
	Grayscale bool
}

// maxSide is the longest side that a JPEG can have.
const maxSide = 65500

// Validate returns an error that names the first setting out of range.
func (c *Config) Validate() error {
	switch {
	case c.Slots == nil:
		return errors.New("imagecodec: Slots is not set")
	case c.Weight < 1:
		return fmt.Errorf("imagecodec: the weight is %d and must be 1 or more", c.Weight)
	case c.MaxPixels < 1:
		return fmt.Errorf("imagecodec: the pixel limit is %d and must be 1 or more", c.MaxPixels)
	case (c.Width == 0) != (c.Height == 0) || c.Width < 0 || c.Height < 0 || c.Width > maxSide || c.Height > maxSide:
		return fmt.Errorf("imagecodec: the size %dx%d is not possible; sides are 1 to %d", c.Width, c.Height, maxSide)
	case c.MultipleOf < 0 || c.MultipleOf > maxSide:
		return fmt.Errorf("imagecodec: sides can't be a multiple of %d; it must be 1 to %d, or 0 for any", c.MultipleOf, maxSide)
	case c.MaxSide < 0 || c.MaxSide > maxSide:
		return fmt.Errorf("imagecodec: the longest side is %d and must be 1 to %d, or 0 for any", c.MaxSide, maxSide)
	case c.MaxSide != 0 && c.MaxSide < c.MultipleOf:
		return fmt.Errorf("imagecodec: no side of %d at most is a multiple of %d", c.MaxSide, c.MultipleOf)
	case c.Width != 0 && (c.MultipleOf != 0 || c.MaxSide != 0):
		return fmt.Errorf("imagecodec: all pictures become %dx%d, so a multiple or a longest side has no meaning", c.Width, c.Height)
	case !c.Filter.Valid():
		return fmt.Errorf("imagecodec: no such filter: %v", c.Filter)
	case c.Quality < 1 || c.Quality > 100:
		return fmt.Errorf("imagecodec: JPEG quality is %d and must be 1 to 100", c.Quality)
	}
	return nil
}

// Target is the size that an upright picture of width x height becomes.
func (c *Config) Target(width, height int) (int, int) {
	if c.Width != 0 {
		return c.Width, c.Height
	}
	if longer := max(width, height); c.MaxSide != 0 && longer > c.MaxSide {
		width, height = rounded(width*c.MaxSide, longer), rounded(height*c.MaxSide, longer)
	}
	return c.nearestMultiple(width), c.nearestMultiple(height)
}

func (c *Config) nearestMultiple(side int) int {
	of := max(1, c.MultipleOf)
	side = rounded(side, of) * of
	if c.MaxSide != 0 {
		side = min(side, c.MaxSide/of*of)
	}
	return side
}

// rounded is a/b, rounded to the nearest whole number, a half up; at least 1.
func rounded(a, b int) int { return max(1, (a+b/2)/b) }

// A Reason says why bytes can't be used as a picture.
type Reason int

// The reasons.
const (
	UnknownFormat Reason = iota // no format that is known here
	Broken                      // a known format, but damaged or truncated, or of a kind that isn't supported
	TooManyPixels               // more than Config.MaxPixels, or a side longer than torch.MaxSide
	NotRGB                      // fewer than three colour channels, without Config.Grayscale
)

// An Error says why bytes can't be used as a picture. Its text is meant for the client who sent them.
type Error struct {
	Reason Reason
	Text   string
}

func (e *Error) Error() string { return e.Text }

func broken(format string, err error) error {
	return &Error{Broken, fmt.Sprintf("broken %s: %v", format, err)}
}

// A Codec decodes and encodes pictures. It is safe for concurrent use.
type Codec struct {
	config Config
	queue  *cpu.Queue
	pool   pool
}

// NewCodec makes a Codec.
func NewCodec(config Config) (*Codec, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Codec{config: config, queue: config.Slots.NewQueue(config.Weight)}, nil
}

// Target is the size that an upright picture of width x height becomes.
func (c *Codec) Target(width, height int) (int, int) { return c.config.Target(width, height) }

// Decode turns a file's bytes into an RGB picture of the configured size. The caller may give the picture's
// memory back by Recycle. Errors: *Error, or the context's cause while it waits for a worker.
func (c *Codec) Decode(ctx context.Context, data []byte) (Image, error) {
	format := sniff(data)
	if format == nil {
		if len(data) == 0 {
			return Image{}, &Error{UnknownFormat, "the body is empty: send a picture's bytes (" + formatNames + ")"}
		}
		return Image{}, &Error{UnknownFormat, "not a picture in a known format: send " + formatNames}
	}
	release, err := c.queue.Acquire(ctx, cpu.Decoding)
	if err != nil {
		return Image{}, err
	}
	defer release()
	if format.decode == nil {
		return c.decodeJPEG(data)
	}
	return c.decodeOther(format, data)
}

func (c *Codec) decodeJPEG(data []byte) (Image, error) {
	options := torch.DecodeOptions{
		MaxPixels: c.config.MaxPixels, Scaled: c.config.ScaledDecode, Filter: c.config.Filter, Gray: c.config.Grayscale,
	}
	if c.config.KeepOrientation {
		options.Orientation = torch.Upright
	}
	width, height := c.config.Width, c.config.Height
	if width == 0 {
		header, err := torch.ReadJPEGHeader(data)
		if err != nil {
			return Image{}, explainJPEG(err)
		}
		if err := c.checkPixels(header.Width, header.Height); err != nil {
			return Image{}, err
		}
		width, height = header.Width, header.Height
		if options.Orientation == torch.FromEXIF && header.Orientation.SwapsSides() {
			width, height = height, width
		}
		if width, height, err = c.target(width, height); err != nil {
			return Image{}, err
		}
	}
	p := c.newImage(width, height)
	if err := torch.DecodeJPEG(data, options, width, height, p.Pixels); err != nil {
		return Image{}, explainJPEG(err)
	}
	return p, nil
}

// explainJPEG gives the failures that are the file's their place among this package's errors.
func explainJPEG(err error) error {
	var failure *torch.Error
	if !errors.As(err, &failure) {
		return err
	}
	switch failure.Kind {
	case torch.ErrBadImage:
		return broken("JPEG", errors.New(failure.Detail))
	case torch.ErrTooManyPixels:
		return &Error{TooManyPixels, "too many pixels: " + failure.Detail}
	case torch.ErrNotRGB:
		return errNotRGB
	default:
		return err
	}
}

var errNotRGB = &Error{NotRGB, "need rgb image"}

func (c *Codec) decodeOther(format *format, data []byte) (Image, error) {
	header, err := format.header(data)
	if err != nil {
		return Image{}, broken(format.name, err)
	}
	if err := c.checkPixels(header.Width, header.Height); err != nil {
		return Image{}, err
	}
	img, err := format.decode(data)
	if err != nil {
		return Image{}, broken(format.name, err)
	}
	gray := isGray(img) || format.gray != nil && format.gray(data)
	if gray && !c.config.Grayscale || c.config.RefusePalette && isPalette(img) {
		return Image{}, errNotRGB
	}
	width, height, err := c.target(img.Bounds().Dx(), img.Bounds().Dy())
	if err != nil {
		return Image{}, err
	}
	raw := toRaw(img)
	p := c.newImage(width, height)
	err = torch.Resize(raw.pixels, raw.width, raw.height, raw.channels, torch.Upright, c.config.Filter, width, height, p.Pixels)
	return p, err
}

// target is the size that a picture is to have. A small picture can become large: a line of pixels whose sides must be
// multiples becomes as thick as one multiple. Its pixels have the limit that the sent ones have, unless all pictures
// have one size.
func (c *Codec) target(width, height int) (int, int, error) {
	width, height = c.config.Target(width, height)
	if c.config.Width != 0 {
		return width, height, nil
	}
	return width, height, c.checkPixels(width, height)
}

func (c *Codec) checkPixels(width, height int) error {
	if width < 1 || height < 1 {
		return &Error{Broken, "the picture has no pixels"}
	}
	if max(width, height) > torch.MaxSide {
		return &Error{TooManyPixels, fmt.Sprintf("too many pixels: a side of %dx%d is longer than %d pixels", width, height, torch.MaxSide)}
	}
	if pixels := int64(width) * int64(height); pixels > c.config.MaxPixels {
		return &Error{TooManyPixels, fmt.Sprintf("too many pixels: %dx%d is more than %d pixels", width, height, c.config.MaxPixels)}
	}
	return nil
}

func (c *Codec) newImage(width, height int) Image {
	return Image{Width: width, Height: height, Channels: 3, Pixels: c.pool.get(width * height * 3)}
}

// Alloc returns size bytes of any content, from memory that was recycled or new.
func (c *Codec) Alloc(size int) []byte { return c.pool.get(size) }

// Recycle gives memory back that Decode or Alloc returned and that nobody uses any more.
func (c *Codec) Recycle(memory []byte) { c.pool.put(memory) }
