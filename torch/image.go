package torch

/*
#cgo noescape thd_jpeg_read_header
#cgo nocallback thd_jpeg_read_header
#cgo noescape decode_jpeg
#cgo nocallback decode_jpeg
#cgo noescape thd_jpeg_encode
#cgo nocallback thd_jpeg_encode
#cgo noescape thd_resize
#cgo nocallback thd_resize
#cgo noescape thd_resize_estimate
#cgo nocallback thd_resize_estimate
#cgo noescape thd_resizer_new
#cgo nocallback thd_resizer_new
#cgo noescape thd_resizer_push
#cgo nocallback thd_resizer_push
#include "torchherd.h"

// Go may pass a pointer to its memory, but no struct with such a pointer in it.
static inline thd_error* decode_jpeg(const uint8_t* data, size_t size, thd_jpeg_decode_options options,
                                     const int32_t* cancel, int32_t width, int32_t height, uint8_t* pixels,
                                     uint8_t* black) {
  options.struct_size = sizeof options;
  options.black = black;
  options.cancel = cancel;
  return thd_jpeg_decode(data, size, &options, width, height, pixels);
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// An Orientation is an EXIF orientation, which says how to rotate or mirror a stored image for display: 1 is upright, 2
// to 4 keep its width and height, 5 to 8 swap them.
type Orientation int

// Upright leaves the image as it is stored.
const Upright Orientation = 1

// SwapsSides reports whether the orientation swaps width and height.
func (o Orientation) SwapsSides() bool { return o >= 5 }

// A JPEGHeader describes a JPEG.
type JPEGHeader struct {
	Width, Height int   // in pixels, as stored, before the orientation is applied
	Channels      int   // 1 gray, 3 color, 4 CMYK
	Blocks        int64 // blocks of 8x8 samples, of all channels
	Memory        int64 // bytes that DecodeJPEG allocates in C at most, beside those of EstimateResize
	Buffered      bool  // all scans are decoded before the first pixel, as in a progressive file
	Arithmetic    bool  // arithmetic instead of Huffman coding
}

// ReadJPEGHeader reads a JPEG's header without decoding the image. Errors: ErrBadImage.
func ReadJPEGHeader(data []byte) (JPEGHeader, error) {
	const op = "read jpeg header"
	if err := checkImage(op, data); err != nil {
		return JPEGHeader{}, err
	}
	info := C.thd_jpeg_info{struct_size: C.sizeof_thd_jpeg_info}
	if err := take(op, C.thd_jpeg_read_header(bytePointer(data), C.size_t(len(data)), &info)); err != nil {
		return JPEGHeader{}, err
	}
	return JPEGHeader{
		Width: int(info.width), Height: int(info.height), Channels: int(info.channels),
		Blocks: int64(info.blocks), Memory: int64(info.memory),
		Buffered: info.buffered != 0, Arithmetic: info.arithmetic != 0,
	}, nil
}

// DecodeOptions are the options of DecodeJPEG. The zero value leaves the image as it is stored, resizes by Bilinear and has
// no limit.
type DecodeOptions struct {
	Orientation Orientation // 0: Upright. The file's own isn't read
	MaxPixels   int64       // limit of the stored image's width*height, checked before decoding; 0: no limit
	// Scaled decodes an image that is at least twice the requested size at 1/2, 1/4 or 1/8 of its size before it is
	// resized. This is faster and changes the pixels.
	Scaled bool
	Filter Filter
	// Gray converts a gray image to RGB with three equal channels, instead of refusing it.
	Gray bool
	// MaxBlocks limits the blocks that all scans together decode; each scan counts JPEGScanBlocks more. 0: no limit.
	MaxBlocks int64
	// Black is memory of width*height*3 bytes, or nil. With it, a JPEG with four components isn't converted to RGB: its cyan,
	// magenta and yellow are in pixels, and its black three times here; 255 is no ink.
	Black []byte
	// Uncancelled looks at the context only before it decodes, which saves the memory to watch it.
	Uncancelled bool
}

// JPEGScanBlocks is what reading a scan's header and tables costs, in blocks.
const JPEGScanBlocks = C.THD_JPEG_SCAN_BLOCKS

// DecodeJPEG decodes a JPEG (baseline or progressive; CMYK is converted to RGB), applies the orientation and resizes
// the oriented image to width x height as Resize does. It writes width*height*3 bytes to pixels, RGB in HWC order.
//
// If ctx ends, DecodeJPEG stops within milliseconds and returns the context's cause. Other errors: ErrBadImage;
// ErrTooManyPixels; ErrTooMuchWork; ErrNotRGB for a gray image unless options.Gray; ErrShape if pixels has another length.
func DecodeJPEG(ctx context.Context, data []byte, options DecodeOptions, width, height int, pixels []byte) error {
	const op = "decode jpeg"
	if err := checkImage(op, data); err != nil {
		return err
	}
	if err := checkPixels(op, pixels, width, height, 3); err != nil {
		return err
	}
	var black *C.uint8_t
	if options.Black != nil {
		if err := checkPixels(op, options.Black, width, height, 3); err != nil {
			return err
		}
		black = bytePointer(options.Black)
	}
	c := C.thd_jpeg_decode_options{
		max_pixels: C.int64_t(options.MaxPixels), orientation: C.int32_t(options.Orientation), filter: options.Filter.c(),
		max_blocks: C.int64_t(options.MaxBlocks),
	}
	if options.Scaled {
		c.scaled = 1
	}
	if options.Gray {
		c.gray = 1
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var cancel *atomic.Int32
	if !options.Uncancelled && ctx.Done() != nil {
		cancel = new(atomic.Int32)
		defer context.AfterFunc(ctx, func() { cancel.Store(1) })()
	}
	err := take(op, C.decode_jpeg(bytePointer(data), C.size_t(len(data)), c, (*C.int32_t)(unsafe.Pointer(cancel)), C.int32_t(width),
		C.int32_t(height), bytePointer(pixels), black))
	if errors.Is(err, ErrCancelled) {
		return context.Cause(ctx)
	}
	return err
}

// Resize applies an orientation to an image and resizes the oriented image to width x height. The result
// equals Image.resize(size, filter) of Pillow 13, which torchvision's resize calls for a PIL image.
//
// source has sourceWidth*sourceHeight pixels of 3 or 4 channels; the fourth channel is ignored. Resize writes
// width*height*3 bytes to pixels. Errors: ErrShape, ErrInvalidArgument.
func Resize(source []byte, sourceWidth, sourceHeight, channels int, orientation Orientation, filter Filter, width, height int, pixels []byte) error {
	const op = "resize"
	if err := checkPixels(op, source, sourceWidth, sourceHeight, channels); err != nil {
		return err
	}
	if err := checkPixels(op, pixels, width, height, 3); err != nil {
		return err
	}
	return take(op, C.thd_resize(bytePointer(source), C.int32_t(sourceWidth), C.int32_t(sourceHeight),
		C.int32_t(channels), C.int32_t(orientation), filter.c(), C.int32_t(width), C.int32_t(height), bytePointer(pixels)))
}

// A ResizeCost is what a resize needs, as upper bounds.
type ResizeCost struct {
	Memory   int64 // bytes allocated in C, without the pixels of source and target
	Weights  int64 // weights of the filter, computed before the first row
	Products int64 // products of a weight and a pixel, for the whole image
	Step     int64 // of those the ones of four rows of the source, which nothing interrupts
}

// EstimateResize returns the cost of Resize, and of a Resizer, with these arguments. Errors: ErrInvalidArgument.
func EstimateResize(sourceWidth, sourceHeight int, orientation Orientation, filter Filter, width, height int) (ResizeCost, error) {
	const op = "estimate resize"
	if err := checkAPI(); err != nil {
		return ResizeCost{}, err
	}
	for _, side := range []int{sourceWidth, sourceHeight, width, height} {
		if side < 1 || side > MaxSide {
			return ResizeCost{}, &Error{Op: op, Kind: ErrInvalidArgument, Detail: fmt.Sprintf("a side is %d and must be 1 to %d", side, MaxSide)}
		}
	}
	c := C.thd_resize_cost{struct_size: C.sizeof_thd_resize_cost}
	if err := take(op, C.thd_resize_estimate(C.int32_t(sourceWidth), C.int32_t(sourceHeight), C.int32_t(orientation), filter.c(),
		C.int32_t(width), C.int32_t(height), &c)); err != nil {
		return ResizeCost{}, err
	}
	return ResizeCost{Memory: int64(c.memory), Weights: int64(c.weights), Products: int64(c.products), Step: int64(c.step)}, nil
}

// A Resizer resizes an image as Resize does, and takes its rows in pieces. The caller must Close it. A Resizer isn't safe
// for concurrent use.
type Resizer struct {
	handle      *C.thd_resizer
	sourceWidth int
	pixels      []byte
}

// NewResizer returns a Resizer that writes width*height*3 bytes to pixels, which are complete after the source's last row.
// Errors: ErrShape, ErrInvalidArgument.
func NewResizer(sourceWidth, sourceHeight int, orientation Orientation, filter Filter, width, height int, pixels []byte) (*Resizer, error) {
	const op = "resize"
	if err := checkPixels(op, pixels, width, height, 3); err != nil {
		return nil, err
	}
	if sourceWidth < 1 || sourceHeight < 1 || sourceWidth > MaxSide || sourceHeight > MaxSide {
		return nil, &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("invalid image size: %dx%d", sourceWidth, sourceHeight)}
	}
	r := &Resizer{sourceWidth: sourceWidth, pixels: pixels}
	return r, take(op, C.thd_resizer_new(C.int32_t(sourceWidth), C.int32_t(sourceHeight), C.int32_t(orientation), filter.c(),
		C.int32_t(width), C.int32_t(height), &r.handle))
}

// Push takes the next rows of the source: count rows of pixels with 3 or 4 channels, of which the fourth is ignored.
// Errors: ErrShape; ErrInvalidArgument, also for more rows than are missing; ErrClosed.
func (r *Resizer) Push(rows []byte, count, channels int) error {
	const op = "resize"
	if r.handle == nil {
		return &Error{Op: op, Kind: ErrClosed}
	}
	if err := checkPixels(op, rows, r.sourceWidth, count, channels); err != nil {
		return err
	}
	return take(op, C.thd_resizer_push(r.handle, bytePointer(rows), C.int32_t(count), C.int32_t(channels), bytePointer(r.pixels)))
}

// Close frees the Resizer's memory. It may be called more than once.
func (r *Resizer) Close() {
	C.thd_resizer_free(r.handle)
	r.handle = nil
}

// JPEGBound returns the largest number of bytes that EncodeJPEG writes for an image of this size, or 0 if JPEG doesn't
// support it (a side below 1 or above 65500, channels other than 1 and 3).
func JPEGBound(width, height, channels int) int {
	if width != int(int32(width)) || height != int(int32(height)) {
		return 0
	}
	return int(C.thd_jpeg_bound(C.int32_t(width), C.int32_t(height), C.int32_t(channels)))
}

// EncodeJPEG encodes pixels (HWC, 1 channel gray or 3 channels RGB) as a baseline JPEG with 4:2:0 subsampling and the
// standard tables. quality is 1 to 100. It writes to out, which should have JPEGBound bytes, and returns the number of
// bytes written.
//
// Errors: ErrShape; ErrInvalidArgument, also if out is too small.
func EncodeJPEG(pixels []byte, width, height, channels, quality int, out []byte) (int, error) {
	const op = "encode jpeg"
	if err := checkPixels(op, pixels, width, height, channels); err != nil {
		return 0, err
	}
	if len(out) == 0 {
		return 0, &Error{Op: op, Kind: ErrInvalidArgument, Detail: "the output buffer is empty"}
	}
	var written C.size_t
	err := take(op, C.thd_jpeg_encode(bytePointer(pixels), C.int32_t(width), C.int32_t(height), C.int32_t(channels),
		C.int32_t(quality), bytePointer(out), C.size_t(len(out)), &written))
	return int(written), err
}

func checkImage(op string, data []byte) error {
	if len(data) == 0 {
		return &Error{Op: op, Kind: ErrBadImage, Detail: "the image is empty"}
	}
	return checkAPI()
}

// MaxSide is the longest side of an image in memory, in pixels. It is far above any real image, and small enough that
// the number of bytes doesn't overflow.
const MaxSide = 1 << 24

// checkPixels returns an error unless an image's memory has the size that C relies on.
func checkPixels(op string, pixels []byte, width, height, channels int) error {
	if err := checkAPI(); err != nil {
		return err
	}
	if width < 1 || height < 1 || channels < 1 || width > MaxSide || height > MaxSide || channels > 4 {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("invalid image size: %dx%d with %d channels", width, height, channels)}
	}
	if len(pixels) != width*height*channels {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("%dx%d pixels of %d channels need %d bytes, got %d",
			width, height, channels, width*height*channels, len(pixels))}
	}
	return nil
}

func bytePointer(bytes []byte) *C.uint8_t { return (*C.uint8_t)(&bytes[0]) }
