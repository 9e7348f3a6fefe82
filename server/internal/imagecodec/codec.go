// Package imagecodec decodes the images that clients send into the pixels that a model takes, and encodes the model's
// output.
//
// JPEG goes through libjpeg-turbo, in C. All other formats have decoders written in Go, so that only one C parser reads
// bytes from the network. The resize is the same for all formats; see package torch.
//
// All Codecs together decode and encode in as many goroutines at a time as there are cpu.Slots: the work is pure
// computation, so more of them would cost memory and save no time. Encoding has priority over decoding.
package imagecodec

import (
	"context"
	"errors"
	"fmt"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// An Image is pixels in memory: Height rows of Width pixels of Channels bytes each, from the top.
type Image struct {
	Width, Height int
	Channels      int // 3: RGB; 1: grayscale, only in a model's output
	Pixels        []byte
}

// DefaultMaxPixels is the number of pixels above which Pillow warns of a decompression bomb: a quarter of a gigabyte at
// three bytes per pixel.
const DefaultMaxPixels = 1024 * 1024 * 1024 / 4 / 3

// Config configures a Codec. The fields from Size on have the meaning of the settings of the same names.
type Config struct {
	Slots         *cpu.Slots // may be shared with other Codecs
	Weight        int        // relative to other Codecs that share the Slots; 1 or more
	MaxPixels     int64      // of an image as sent, checked before memory is allocated; 1 or more
	RefusePalette bool       // refuse palette images with NotRGB instead of converting them to RGB
	Pixels        Memory     // of decoded images and Alloc; nil: Go's heap

	Size         settings.Size // zero: each image keeps its own size, within MaxSide and MultipleOf
	MaxSide      int
	MultipleOf   int
	ResizeFilter torch.Filter
	JPEGScale    bool
	EXIF         settings.EXIF      // zero: settings.Apply
	Grayscale    settings.Grayscale // zero: settings.Refuse
	Quality      int
}

// Validate returns an error that names the first field out of range.
func (c *Config) Validate() error {
	const maxSide = settings.MaxSide
	w, h := c.Size.Width, c.Size.Height
	switch {
	case c.Slots == nil:
		return errors.New("imagecodec: Slots is not set")
	case c.Weight < 1:
		return fmt.Errorf("imagecodec: Weight is %d and must be at least 1", c.Weight)
	case c.MaxPixels < 1:
		return fmt.Errorf("imagecodec: MaxPixels is %d and must be at least 1", c.MaxPixels)
	case !c.Size.Keep() && (w < 1 || h < 1 || w > maxSide || h > maxSide):
		return fmt.Errorf("imagecodec: Size is %v and its sides must be 1 to %d", c.Size, maxSide)
	case c.MultipleOf < 0 || c.MultipleOf > maxSide:
		return fmt.Errorf("imagecodec: MultipleOf is %d and must be 0 to %d", c.MultipleOf, maxSide)
	case c.MaxSide < 0 || c.MaxSide > maxSide:
		return fmt.Errorf("imagecodec: MaxSide is %d and must be 0 to %d", c.MaxSide, maxSide)
	case c.MaxSide != 0 && c.MaxSide < c.MultipleOf:
		return fmt.Errorf("imagecodec: MaxSide is %d and must be at least MultipleOf, which is %d", c.MaxSide, c.MultipleOf)
	case !c.Size.Keep() && (c.MultipleOf != 0 || c.MaxSide != 0):
		return fmt.Errorf("imagecodec: MultipleOf and MaxSide are for images that keep their sizes, but Size is %v", c.Size)
	case !c.ResizeFilter.Valid():
		return fmt.Errorf("imagecodec: unknown ResizeFilter: %v", c.ResizeFilter)
	case c.Quality < 1 || c.Quality > 100:
		return fmt.Errorf("imagecodec: Quality is %d and must be 1 to 100", c.Quality)
	}
	return nil
}

// Target returns the size to which an upright image of width x height is resized.
func (c *Config) Target(width, height int) (int, int) {
	if !c.Size.Keep() {
		return c.Size.Width, c.Size.Height
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

// rounded returns a/b rounded to the nearest integer, halves up, and at least 1.
func rounded(a, b int) int { return max(1, (a+b/2)/b) }

// A Reason is why an image cannot be decoded.
type Reason int

// The reasons.
const (
	UnknownFormat Reason = iota
	Broken               // damaged, truncated, or of an unsupported kind
	TooManyPixels        // more than Config.MaxPixels, or a side longer than torch.MaxSide
	NotRGB               // grayscale, and Config.Grayscale refuses it
)

// An Error says why an image cannot be decoded. Its text is for the client who sent the image.
type Error struct {
	Reason Reason
	Text   string
}

func (e *Error) Error() string { return e.Text }

func broken(format string, err error) error {
	return &Error{Broken, fmt.Sprintf("broken %s: %v", format, err)}
}

// A Memory is where the pixels of images lie. It is safe for concurrent use.
type Memory interface {
	// Alloc returns size bytes of undefined content.
	Alloc(size int) []byte
	// Free takes memory of Alloc back, and reports whether it was that. For other memory it does nothing.
	Free(memory []byte) bool
}

// A Codec decodes and encodes images. It is safe for concurrent use.
type Codec struct {
	config Config
	queue  *cpu.Queue
	pool   pool
}

// NewCodec returns a new Codec.
func NewCodec(config Config) (*Codec, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Codec{config: config, queue: config.Slots.NewQueue(config.Weight)}, nil
}

// Target returns the size to which an upright image of width x height is resized.
func (c *Codec) Target(width, height int) (int, int) { return c.config.Target(width, height) }

// Decode decodes an image file into RGB pixels of the target size. The caller may recycle the pixels. Decode returns an
// *Error for a bad image, and the context's cause if the context ends while it waits for a slot.
func (c *Codec) Decode(ctx context.Context, data []byte) (Image, error) {
	format := sniff(data)
	if format == nil {
		if len(data) == 0 {
			return Image{}, &Error{UnknownFormat, "the body is empty: send the image as the request body (" + formatNames + ")"}
		}
		return Image{}, &Error{UnknownFormat, "unknown image format: send " + formatNames}
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
		MaxPixels: c.config.MaxPixels, Scaled: c.config.JPEGScale, Filter: c.config.ResizeFilter, Gray: c.config.Grayscale == settings.ToRGB,
	}
	if c.config.EXIF == settings.Ignore {
		options.Orientation = torch.Upright
	}
	width, height := c.config.Size.Width, c.config.Size.Height
	if c.config.Size.Keep() {
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
		c.Recycle(p.Pixels)
		return Image{}, explainJPEG(err)
	}
	return p, nil
}

// explainJPEG turns torch's errors about the file into this package's.
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
	if gray && c.config.Grayscale != settings.ToRGB || c.config.RefusePalette && isPalette(img) {
		return Image{}, errNotRGB
	}
	width, height, err := c.target(img.Bounds().Dx(), img.Bounds().Dy())
	if err != nil {
		return Image{}, err
	}
	raw := toRaw(img)
	p := c.newImage(width, height)
	if err := torch.Resize(raw.pixels, raw.width, raw.height, raw.channels, torch.Upright, c.config.ResizeFilter, width, height, p.Pixels); err != nil {
		c.Recycle(p.Pixels)
		return Image{}, err
	}
	return p, nil
}

// target returns Target and checks it against the pixel limit, unless all images have one size: where the sides must be
// multiples, a small image can become a large one.
func (c *Codec) target(width, height int) (int, int, error) {
	width, height = c.config.Target(width, height)
	if !c.config.Size.Keep() {
		return width, height, nil
	}
	return width, height, c.checkPixels(width, height)
}

func (c *Codec) checkPixels(width, height int) error {
	if width < 1 || height < 1 {
		return &Error{Broken, "the image has no pixels"}
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
	return Image{Width: width, Height: height, Channels: 3, Pixels: c.Alloc(width * height * 3)}
}

// Alloc returns memory for pixels: size bytes of undefined content, recycled or newly allocated.
func (c *Codec) Alloc(size int) []byte {
	if c.config.Pixels != nil {
		return c.config.Pixels.Alloc(size)
	}
	return c.pool.get(size)
}

// Recycle takes back memory from Decode, Encode or Alloc. The caller must not use it afterwards.
func (c *Codec) Recycle(memory []byte) {
	if c.config.Pixels == nil || !c.config.Pixels.Free(memory) {
		c.pool.put(memory)
	}
}
