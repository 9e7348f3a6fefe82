// Package imagecodec decodes the images that clients send into the pixels that a model takes, and encodes the model's
// output.
//
// JPEG goes through libjpeg-turbo, in C. PNG, GIF and BMP have decoders written in Go; WebP, AVIF, JPEG 2000 and TIFF have
// decoders in C that run as WebAssembly, with memory of their own, and so has AVIF's encoder. So only one C parser of bytes from
// the network is part of the process. The resize is the same for all formats; see package torch.
//
// All Codecs together decode and encode in as many goroutines at a time as there are cpu.Slots: the work is pure
// computation, so more of them would cost memory and save no time. Encoding has priority over decoding.
package imagecodec

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/colour"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/heif"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// An Image is pixels in memory: Height rows of Width pixels of Channels bytes each, from the top.
type Image struct {
	Width, Height int
	Channels      int // 3: RGB. Others only in a result: 1: grayscale or class numbers; 4: RGBA, not premultiplied
	Pixels        []byte

	alpha *Image // of a decoded image, if it is kept: RGB with equal channels; its size can be another one
}

// DefaultMaxPixels is the number of pixels above which Pillow warns of a decompression bomb: a quarter of a gigabyte at
// three bytes per pixel.
const DefaultMaxPixels = 1024 * 1024 * 1024 / 4 / 3

// Config configures a Codec. The fields from Size on have the meaning of the settings of the same names.
type Config struct {
	Slots         *cpu.Slots     // may be shared with other Codecs
	Weight        int            // relative to other Codecs that share the Slots; 1 or more
	MaxPixels     int64          // of an image as sent, checked before memory is allocated; 1 or more
	RefusePalette bool           // refuse palette images with NotRGB instead of converting them to RGB
	HEIC          *heif.Decoder  // nil: HEIC is refused
	Pixels        Memory         // of decoded images and Alloc; nil: Go's heap
	Log           zerolog.Logger // has colour spaces that are ignored, at a bounded rate

	Size         settings.Size // zero: each image keeps its own size, within MaxSide and MultipleOf
	MaxSide      int
	MultipleOf   int
	Fit          settings.Fit // zero: settings.Stretch; not settings.AutoFit
	Fill         byte         // of the pixels beside an image with settings.Letterbox
	Tile         int          // 0: none
	TileStride   int          // with Tile; see settings.Settings
	Overlap      int
	ResizeFilter torch.Filter
	JPEGScale    bool
	EXIF         settings.EXIF      // zero: settings.Apply
	Color        settings.Color     // zero: settings.ConvertColor
	Alpha        settings.AlphaMode // zero: it is dropped
	Metadata     settings.Metadata  // zero: settings.NoMetadata
	Grayscale    settings.Grayscale // zero: settings.Refuse
	Quality      int
	Output       settings.OutputKind // zero: settings.Image
	Palette      settings.Palette    // of settings.Classes
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
	case c.Fit == settings.AutoFit || c.Size.Keep() && c.MultipleOf != 0 && (c.Fit == settings.Crop || c.Fit == settings.Letterbox):
		return fmt.Errorf("imagecodec: Fit is %s, which is not for images that keep their sizes", c.Fit)
	case c.Tile < 0 || c.Tile > maxSide || c.Tile != 0 && (!c.Size.Keep() || c.TileStride < 1 || c.TileStride > c.Tile || c.Overlap < 0):
		return fmt.Errorf("imagecodec: Tile is %d, with a TileStride of %d and an Overlap of %d, for a Size of %v", c.Tile, c.TileStride, c.Overlap, c.Size)
	case !c.ResizeFilter.Valid():
		return fmt.Errorf("imagecodec: unknown ResizeFilter: %v", c.ResizeFilter)
	case c.Quality < 1 || c.Quality > 100:
		return fmt.Errorf("imagecodec: Quality is %d and must be 1 to 100", c.Quality)
	}
	return nil
}

// Target returns the size of the model's input for an upright image of width x height, or of each of its tiles.
func (c *Config) Target(width, height int) (int, int) {
	p := c.place(width, height)
	if p.tiling != nil {
		return p.tiling.Width, p.tiling.Height
	}
	return p.area.Width, p.area.Height
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

// A Reason is why an image cannot be decoded or encoded.
type Reason int

// The reasons.
const (
	UnknownFormat Reason = iota
	Broken               // damaged or truncated
	Unsupported          // of a kind that its format has and this package doesn't decode
	TooManyPixels        // more than Config.MaxPixels, or a side longer than torch.MaxSide
	NotRGB               // grayscale, and Config.Grayscale refuses it
	TooMuchWork          // more than the work that a file of its size may cost; see work.go
	TooLong              // a side of the result is longer than the response's format allows
	NoAlpha              // the result has alpha, which the response's format can't hold
)

// An Error says why an image cannot be decoded or encoded. Its text is for the client who sent the image.
type Error struct {
	Reason Reason
	Text   string
}

func (e *Error) Error() string { return e.Text }

// A systemError is an error of this machine, and not of a file.
type systemError struct{ error }

func broken(format string, err error) error {
	return &Error{Broken, fmt.Sprintf("broken %s: %v", format, err)}
}

// unsupported returns the error for a file with something that this package doesn't decode.
func unsupported(format, what string) error {
	return &Error{Unsupported, fmt.Sprintf("a %s with %s isn't supported: send %s", format, what, advised)}
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
	config  Config
	queue   *cpu.Queue
	pool    pool
	colours colour.Cache
	log     zerolog.Logger // sampled
}

// NewCodec returns a new Codec.
func NewCodec(config Config) (*Codec, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	const burst = 10 // messages a minute
	log := config.Log.Sample(&zerolog.BurstSampler{Burst: burst, Period: time.Minute})
	return &Codec{config: config, queue: config.Slots.NewQueue(config.Weight), log: log}, nil
}

// Target returns the size of the model's input for an upright image of width x height, or of each of its tiles.
func (c *Codec) Target(width, height int) (int, int) { return c.config.Target(width, height) }

// An Input is an image file whose header has been read and found acceptable.
type Input struct {
	// Memory is the number of bytes that Decode needs at its peak, in Go, in C and in WebAssembly, at most. It includes the
	// pixels that Decode returns. It doesn't include the file.
	Memory int64

	data          []byte
	format        *format
	header        header
	placement     placement // zero until the header has been read
	width, height int       // of the image that is decoded, which is placement.scaled
	resize        torch.ResizeCost
	sent          torch.ResizeCost // of the image at the size at which it was sent; zero: not needed
	held          int64            // see Held
	work, limit   picoseconds
	granted       picoseconds // of the limit, beside what a file of its size has
	rows          int         // of the source, that the resize takes at a time
	heif          *heif.Decoder
}

// Size returns the size of the image that Decode returns, in pixels.
func (in *Input) Size() (width, height int) { return in.placement.area.Width, in.placement.area.Height }

// Held returns the number of bytes that the request keeps after Decode: the pixels, and what Join needs of them and makes of
// the image as it was sent.
func (in *Input) Held() int64 { return in.held }

// SentSize returns the size of the upright image as it was sent, in pixels.
func (in *Input) SentSize() (width, height int) {
	if in.header.orientation.SwapsSides() {
		return in.header.height, in.header.width
	}
	return in.header.width, in.header.height
}

// Prepare recognizes a file's format, reads its header and makes all checks that the header allows. It is cheap, needs no
// slot, and keeps the data. Its errors are *Errors.
func (c *Codec) Prepare(data []byte) (*Input, error) {
	in := new(Input) // short enough to be inlined, so that the Input can be on the caller's stack
	if err := c.prepare(in, data); err != nil {
		return nil, err
	}
	return in, nil
}

func (c *Codec) prepare(in *Input, data []byte) error {
	in.data, in.format = data, sniff(data)
	if in.format == nil || in.format.name == "HEIC" && c.config.HEIC == nil {
		return refusal(data)
	}
	in.heif = c.config.HEIC
	err := c.readHeader(in)
	if err != nil {
		return err
	}
	h := &in.header
	in.resize, err = torch.EstimateResize(h.width, h.height, h.orientation, c.config.ResizeFilter, in.width, in.height)
	if err != nil {
		return err
	}
	if c.splitsInks(in) || c.keepsAlpha(in) { // black, or the alpha, is resized by itself
		in.resize.Memory, in.resize.Weights, in.resize.Products, in.resize.Step = 2*in.resize.Memory, 2*in.resize.Weights, 2*in.resize.Products, 2*in.resize.Step
	}
	if c.config.Output.NeedsSent() {
		width, height := in.SentSize()
		in.sent, err = torch.EstimateResize(h.width, h.height, h.orientation, c.config.ResizeFilter, width, height)
		if err != nil {
			return err
		}
	}
	if c.convertsColours(in) {
		c.addWorkOfColours(in)
	}
	if c.hasAlpha(in) {
		h.memory += h.alphaMemory
		h.work += h.alphaWork
	}
	if err := c.checkWork(in); err != nil {
		return err
	}
	in.rows = rowsAtATime(in)
	width, height := in.Size()
	in.held = 3 * int64(width) * int64(height)
	in.Memory = h.memory + in.resize.Memory + in.held + 3*int64(h.width)*int64(in.rows) + memoryOfDecode
	if c.convertsColours(in) {
		in.Memory += memoryOfColours(&h.details)
		if h.deep {
			in.Memory += 2 * channelsOfSamples * int64(h.width)
		}
	}
	if c.splitsInks(in) {
		in.Memory += 3 * int64(in.width) * int64(in.height)
	}
	in.held += c.memoryOfMetadata(&h.details)
	in.Memory += c.memoryOfMetadata(&h.details)
	if c.hasAlpha(in) {
		in.Memory += 4*int64(h.width)*int64(in.rows) + int64(h.width)*int64(h.height) // the latter if it is interlaced
	}
	if c.keepsAlpha(in) {
		pixels := int64(in.width) * int64(in.height)
		in.Memory += 3 * pixels
		in.held += (3 + 4) * pixels // the alpha, and the result with it
		in.Memory = max(in.Memory, in.held)
	}
	if !in.placement.plain() {
		in.Memory += 3 * int64(in.width) * int64(in.height)
	}
	if c.config.Output.NeedsSent() {
		pixels := int64(h.width) * int64(h.height)
		in.Memory += in.sent.Memory + 3*pixels
		in.held += bytesOfJoin(c.config.Output) * pixels
		in.Memory = max(in.Memory, in.held+in.resize.Memory) // a resize back to that size takes about as much
	}
	return nil
}

// readHeader sets the Input's header and the size of its result.
func (c *Codec) readHeader(in *Input) (err error) {
	in.header, err = in.format.header(in.data)
	var failure *Error
	switch {
	case errors.As(err, &failure):
		return failure
	case err != nil:
		return broken(in.format.name, err)
	}
	h := &in.header
	if err := c.checkPixels(h.width, h.height); err != nil {
		return err
	}
	if h.gray && c.config.Grayscale != settings.ToRGB || h.palette && c.config.RefusePalette || h.twoChannels {
		return errNotRGB
	}
	if in.format.details != nil {
		h.details = in.format.details(in.data)
	}
	if in.format.turned || in.format.details != nil && c.config.EXIF != settings.Ignore {
		h.orientation = h.details.orientation()
	}
	h.alpha = h.alpha || h.details.transparency != nil
	if in.placement.scaled == (settings.Size{}) {
		in.placement = c.config.place(in.SentSize())
	}
	in.width, in.height = in.placement.scaled.Width, in.placement.scaled.Height
	return c.checkPlacement(&in.placement)
}

// Decode decodes an Input of this Codec into RGB pixels of the size of the model's input, or of the image if that has a
// Tiling. The caller may recycle the pixels. Decode
// returns an *Error for a bad image. If the context ends, it returns the context's cause: at once while it waits for a
// slot, and within 50 ms while it decodes.
func (c *Codec) Decode(ctx context.Context, in *Input) (Image, error) {
	release, err := c.queue.Acquire(ctx, cpu.Decoding)
	if err != nil {
		return Image{}, err
	}
	defer release()
	p := c.scaled(in)
	if err := c.decode(ctx, in, &p); err != nil {
		c.Recycle(p.Pixels)
		return Image{}, err
	}
	return c.placed(ctx, in, p)
}

// scaled returns memory for the image that is decoded: where the model can read it, if it is the model's input.
func (c *Codec) scaled(in *Input) Image {
	if !in.placement.plain() || in.placement.tiling != nil {
		return c.scratch(in.width, in.height, 3)
	}
	return Image{Width: in.width, Height: in.height, Channels: 3, Pixels: c.Alloc(in.width * in.height * 3)}
}

// DecodeBoth is Decode for kinds of output that need the image at the size at which it was sent as well. The pixels of sent
// are in Go's heap. The caller may recycle both.
func (c *Codec) DecodeBoth(ctx context.Context, in *Input) (img, sent Image, err error) {
	release, err := c.queue.Acquire(ctx, cpu.Decoding)
	if err != nil {
		return Image{}, Image{}, err
	}
	defer release()
	width, height := in.SentSize()
	sent = c.scratch(width, height, 3)
	asSent := *in
	asSent.width, asSent.height = width, height
	if err := c.decode(ctx, &asSent, &sent); err != nil {
		c.pool.put(sent.Pixels)
		return Image{}, Image{}, err
	}
	img = c.scaled(in)
	img.alpha = sent.alpha
	if err = c.resize(ctx, sent, c.config.ResizeFilter, img); err != nil {
		c.Recycle(img.Pixels)
	} else {
		img, err = c.placed(ctx, in, img)
	}
	if err != nil {
		c.pool.put(sent.Pixels)
		return Image{}, Image{}, err
	}
	return img, sent, nil
}

func (c *Codec) decode(ctx context.Context, in *Input, p *Image) error {
	t, err := c.transform(ctx, in)
	if err != nil {
		return err
	}
	var black []byte // of a JPEG of inks
	switch {
	case in.format.decode != nil && c.convertsRows(in):
		return c.decodeOther(ctx, *in, p, t)
	case in.format.decode != nil:
		err = c.decodeOther(ctx, *in, p, nil)
	case t != nil && c.splitsInks(in):
		black = c.pool.get(len(p.Pixels))
		defer c.pool.put(black)
		err = c.decodeJPEG(ctx, in, *p, black)
	default:
		err = c.decodeJPEG(ctx, in, *p, nil)
	}
	if err != nil {
		return err
	}
	return convert(ctx, t, *p, black)
}

// splitsInks reports whether the inks of a JPEG may be decoded as they are.
func (c *Codec) splitsInks(in *Input) bool {
	return in.header.jpeg.Channels == int(colour.CMYK) && c.convertsColours(in)
}

// decodeOther decodes an image of a format other than JPEG. t: how its colours are converted before the resize; nil: not.
func (c *Codec) decodeOther(ctx context.Context, in Input, p *Image, t *colour.Transform) error {
	resizer, err := torch.NewResizer(in.header.width, in.header.height, in.header.orientation, c.config.ResizeFilter, in.width, in.height, p.Pixels)
	if err != nil {
		return err
	}
	defer resizer.Close()
	s := &sink{ctx: ctx, resizer: resizer, width: in.header.width, height: in.header.height, rows: in.rows}
	if in.header.deep {
		s.transform = t
	} else {
		s.transform8 = t
	}
	switch {
	case c.keepsAlpha(&in):
		if s.alpha, err = c.alphaResizer(&in, p); err != nil {
			return err
		}
		defer s.alpha.Close()
	case c.hasAlpha(&in):
		s.over = &c.config.Alpha.Over
	}
	err = in.format.decode(&in, s)
	var failure *Error
	var system *systemError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &system):
		return system.error
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &failure):
		return failure
	}
	return broken(in.format.name, err)
}

func (c *Codec) decodeJPEG(ctx context.Context, in *Input, p Image, black []byte) error {
	options := torch.DecodeOptions{
		MaxPixels: c.config.MaxPixels, Scaled: c.config.JPEGScale, Filter: c.config.ResizeFilter, Gray: true,
		Orientation: in.header.orientation, MaxBlocks: maxBlocks(in), Black: black,
		// Seeing the end of the context costs memory, and a short decode ends by itself.
		Uncancelled: in.work < uninterrupted && !in.header.jpeg.Buffered,
	}
	err := torch.DecodeJPEG(ctx, in.data, options, p.Width, p.Height, p.Pixels)
	if err == nil {
		return nil
	}
	return explainJPEG(err)
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
	case torch.ErrTooMuchWork:
		return &Error{TooMuchWork, "too much work: " + failure.Detail + ": send a baseline JPEG, or fewer pixels"}
	default:
		return err
	}
}

var errNotRGB = &Error{NotRGB, "need rgb image"}

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
