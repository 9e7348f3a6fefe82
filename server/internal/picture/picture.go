// Package picture turns the bytes that a client sends into the pixels that a model takes, and back.
//
// JPEG goes through libjpeg-turbo, in C; all other formats through decoders written in Go, so that one C parser
// alone faces the network. The resize is one for all (package torch).
//
// Only so many goroutines decode and encode at a time as there are Workers, for all Codecs together: the work is pure
// computing, so many more at once than there are cores only cost memory. Encoding goes before decoding.
package picture

import (
	"context"
	"errors"
	"fmt"

	"github.com/torchherd/torchherd/torch"
)

// A Picture is pixels in memory: Height rows of Width pixels of Channels bytes each, from the top.
type Picture struct {
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
	Workers   *Workers // may be other Codecs' too
	MaxPixels int64    // of a picture as sent, checked before memory is taken; 1 or more
	// Width and Height are the size that pictures are resized to; both 0 leaves each at its own size.
	Width, Height int
	Quality       int // of JPEG answers, 1 to 100
	// KeepOrientation leaves pictures as they are stored instead of turning them as their EXIF data says.
	KeepOrientation bool
	// ScaledDecode decodes a JPEG that is at least twice as large as Width x Height at a half, a quarter or an eighth of
	// its size: faster, and not the same pixels.
	ScaledDecode bool
	// RefusePalette answers palette pictures with NotRGB instead of looking their colours up.
	RefusePalette bool
}

// Validate returns an error that names the first setting out of range.
func (c *Config) Validate() error {
	switch {
	case c.Workers == nil:
		return errors.New("picture: there are no workers")
	case c.MaxPixels < 1:
		return fmt.Errorf("picture: the pixel limit is %d and must be 1 or more", c.MaxPixels)
	case (c.Width == 0) != (c.Height == 0) || c.Width < 0 || c.Height < 0 || c.Width > 65500 || c.Height > 65500:
		return fmt.Errorf("picture: the size %dx%d is not possible; sides are 1 to 65500", c.Width, c.Height)
	case c.Quality < 1 || c.Quality > 100:
		return fmt.Errorf("picture: JPEG quality is %d and must be 1 to 100", c.Quality)
	}
	return nil
}

// A Reason says why bytes can't be used as a picture.
type Reason int

// The reasons.
const (
	UnknownFormat Reason = iota // no format that is known here
	Broken                      // a known format, but damaged or truncated, or of a kind that isn't supported
	TooManyPixels               // more than Config.MaxPixels
	NotRGB                      // fewer than three colour channels
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
	pool   pool
}

// NewCodec makes a Codec.
func NewCodec(config Config) (*Codec, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Codec{config: config}, nil
}

// Decode turns a file's bytes into an RGB picture of the configured size. The caller may give the picture's
// memory back by Recycle. Errors: *Error, or the context's cause while it waits for a worker.
func (c *Codec) Decode(ctx context.Context, data []byte) (Picture, error) {
	format := sniff(data)
	if format == nil {
		if len(data) == 0 {
			return Picture{}, &Error{UnknownFormat, "the body is empty: send a picture's bytes (" + formatNames + ")"}
		}
		return Picture{}, &Error{UnknownFormat, "not a picture in a known format: send " + formatNames}
	}
	release, err := c.config.Workers.acquire(ctx, decoding)
	if err != nil {
		return Picture{}, err
	}
	defer release()
	if format.decode == nil {
		return c.decodeJPEG(data)
	}
	return c.decodeOther(format, data)
}

func (c *Codec) decodeJPEG(data []byte) (Picture, error) {
	options := torch.DecodeOptions{MaxPixels: c.config.MaxPixels, Scaled: c.config.ScaledDecode}
	if c.config.KeepOrientation {
		options.Orientation = torch.Upright
	}
	width, height := c.config.Width, c.config.Height
	if width == 0 {
		header, err := torch.ReadJPEGHeader(data)
		if err != nil {
			return Picture{}, explainJPEG(err)
		}
		if err := c.checkPixels(header.Width, header.Height); err != nil {
			return Picture{}, err
		}
		width, height = header.Width, header.Height
		if options.Orientation == torch.FromEXIF && header.Orientation.SwapsSides() {
			width, height = height, width
		}
	}
	p := c.newPicture(width, height)
	if err := torch.DecodeJPEG(data, options, width, height, p.Pixels); err != nil {
		return Picture{}, explainJPEG(err)
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
	case torch.ErrBadPicture:
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

func (c *Codec) decodeOther(format *format, data []byte) (Picture, error) {
	header, err := format.header(data)
	if err != nil {
		return Picture{}, broken(format.name, err)
	}
	if err := c.checkPixels(header.Width, header.Height); err != nil {
		return Picture{}, err
	}
	img, err := format.decode(data)
	if err != nil {
		return Picture{}, broken(format.name, err)
	}
	if isGray(img) || format.gray != nil && format.gray(data) || c.config.RefusePalette && isPalette(img) {
		return Picture{}, errNotRGB
	}
	raw := toRaw(img)
	width, height := c.config.Width, c.config.Height
	if width == 0 {
		width, height = raw.width, raw.height
	}
	p := c.newPicture(width, height)
	err = torch.Resize(raw.pixels, raw.width, raw.height, raw.channels, torch.Upright, torch.Bilinear, width, height, p.Pixels)
	return p, err
}

func (c *Codec) checkPixels(width, height int) error {
	if width < 1 || height < 1 {
		return &Error{Broken, "the picture has no pixels"}
	}
	if pixels := int64(width) * int64(height); pixels > c.config.MaxPixels {
		return &Error{TooManyPixels, fmt.Sprintf("too many pixels: %dx%d is more than %d pixels", width, height, c.config.MaxPixels)}
	}
	return nil
}

func (c *Codec) newPicture(width, height int) Picture {
	return Picture{Width: width, Height: height, Channels: 3, Pixels: c.pool.get(width * height * 3)}
}

// Alloc returns size bytes of any content, from memory that was recycled or new.
func (c *Codec) Alloc(size int) []byte { return c.pool.get(size) }

// Recycle gives memory back that Decode or Alloc returned and that nobody uses any more.
func (c *Codec) Recycle(memory []byte) { c.pool.put(memory) }
