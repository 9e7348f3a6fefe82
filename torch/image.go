package torch

/*
#cgo noescape thd_jpeg_read_header
#cgo nocallback thd_jpeg_read_header
#cgo noescape thd_jpeg_decode
#cgo nocallback thd_jpeg_decode
#cgo noescape thd_jpeg_encode
#cgo nocallback thd_jpeg_encode
#cgo noescape thd_resize
#cgo nocallback thd_resize
#include "torchherd.h"
*/
import "C"

import "fmt"

// An Orientation is the turn that a picture needs before it is shown, as EXIF numbers them: 1 is upright, 2 to 4
// mirror or turn it by half, 5 to 8 swap its sides.
type Orientation int

const (
	// FromEXIF stands for the orientation that the file's own EXIF data states; Upright if it states none.
	FromEXIF Orientation = C.THD_ORIENTATION_EXIF
	// Upright leaves the picture as it is stored.
	Upright Orientation = 1
)

// SwapsSides tells whether the turned picture is as wide as the stored one is high.
func (o Orientation) SwapsSides() bool { return o >= 5 }

// JPEGHeader is what a JPEG's header says.
type JPEGHeader struct {
	Width, Height int // pixels as stored, before any turn
	Channels      int // 1 grey, 3 colour, 4 CMYK
	Orientation   Orientation
}

// ReadJPEGHeader reads a JPEG's header without decoding the picture. Errors: ErrBadImage.
func ReadJPEGHeader(data []byte) (JPEGHeader, error) {
	const op = "read jpeg header"
	if err := checkImage(op, data); err != nil {
		return JPEGHeader{}, err
	}
	var info C.thd_jpeg_info
	if err := take(op, C.thd_jpeg_read_header(bytePointer(data), C.size_t(len(data)), &info)); err != nil {
		return JPEGHeader{}, err
	}
	return JPEGHeader{
		Width: int(info.width), Height: int(info.height), Channels: int(info.channels),
		Orientation: Orientation(info.orientation),
	}, nil
}

// DecodeOptions say how a JPEG is decoded. The zero value goes by the file's EXIF data and has no limit.
type DecodeOptions struct {
	Orientation Orientation
	MaxPixels   int64 // of the stored picture, checked on the header; 0: no limit
	// Scaled decodes a picture that is at least twice as large as asked for at 1/2, 1/4 or 1/8 of its size before it is
	// resized: faster, and with other values.
	Scaled bool
	Filter Filter
	// Gray makes a grey picture RGB with three equal channels, instead of refusing it.
	Gray bool
}

// DecodeJPEG decodes a JPEG (baseline or progressive; CMYK is turned into RGB), turns it by its orientation and
// resizes the turned picture to width x height as Resize does. pixels receives width*height*3 bytes, RGB in HWC
// order.
//
// Errors: ErrBadImage, ErrTooManyPixels, ErrNotRGB for a grey picture unless options.Gray, ErrShape when pixels has
// another length.
func DecodeJPEG(data []byte, options DecodeOptions, width, height int, pixels []byte) error {
	const op = "decode jpeg"
	if err := checkImage(op, data); err != nil {
		return err
	}
	if err := checkPixels(op, pixels, width, height, 3); err != nil {
		return err
	}
	c := C.thd_jpeg_decode_options{
		max_pixels: C.int64_t(options.MaxPixels), orientation: C.int32_t(options.Orientation), filter: options.Filter.c(),
	}
	if options.Scaled {
		c.scaled = 1
	}
	if options.Gray {
		c.gray = 1
	}
	return take(op, C.thd_jpeg_decode(bytePointer(data), C.size_t(len(data)), &c, C.int32_t(width), C.int32_t(height),
		bytePointer(pixels)))
}

// Resize turns a picture by orientation (not FromEXIF) and resizes the turned picture to width x height with a filter,
// antialiased when it shrinks, unless it is Nearest. The values equal those of Pillow 13's Image.resize(size, filter),
// which is what torchvision's resize is for a PIL image.
//
// source has sourceWidth*sourceHeight pixels of channels (3 or 4) bytes, and a fourth channel is left out; pixels
// receives width*height*3 bytes. Errors: ErrShape, ErrInvalidArgument.
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

// JPEGBound is the most bytes that EncodeJPEG can need for a picture of that size; 0 for a size that no JPEG can
// have (a side below 1 or above 65500, channels other than 1 and 3).
func JPEGBound(width, height, channels int) int {
	if width != int(int32(width)) || height != int(int32(height)) {
		return 0
	}
	return int(C.thd_jpeg_bound(C.int32_t(width), C.int32_t(height), C.int32_t(channels)))
}

// EncodeJPEG writes pixels (HWC, 1 channel grey or 3 RGB) as a baseline JPEG with 4:2:0 subsampling and the
// standard tables at quality 1 to 100, into out, which should have JPEGBound bytes. It returns the number written.
//
// Errors: ErrShape, ErrInvalidArgument (also when out is too small).
func EncodeJPEG(pixels []byte, width, height, channels, quality int, out []byte) (int, error) {
	const op = "encode jpeg"
	if err := checkPixels(op, pixels, width, height, channels); err != nil {
		return 0, err
	}
	if len(out) == 0 {
		return 0, &Error{Op: op, Kind: ErrInvalidArgument, Detail: "no room to write to"}
	}
	var written C.size_t
	err := take(op, C.thd_jpeg_encode(bytePointer(pixels), C.int32_t(width), C.int32_t(height), C.int32_t(channels),
		C.int32_t(quality), bytePointer(out), C.size_t(len(out)), &written))
	return int(written), err
}

func checkImage(op string, data []byte) error {
	if len(data) == 0 {
		return &Error{Op: op, Kind: ErrBadImage, Detail: "there are no bytes"}
	}
	return checkABI()
}

// MaxSide is the longest side of a picture's memory, in pixels: far above any picture, and short enough that the number of
// its bytes doesn't overflow.
const MaxSide = 1 << 24

// checkPixels makes sure that a picture's memory has the size that C takes for granted.
func checkPixels(op string, pixels []byte, width, height, channels int) error {
	if err := checkABI(); err != nil {
		return err
	}
	if width < 1 || height < 1 || channels < 1 || width > MaxSide || height > MaxSide || channels > 4 {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("no picture is %dx%d with %d channels", width, height, channels)}
	}
	if len(pixels) != width*height*channels {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("%dx%d pixels of %d channels need %d bytes, and there are %d",
			width, height, channels, width*height*channels, len(pixels))}
	}
	return nil
}

func bytePointer(bytes []byte) *C.uint8_t { return (*C.uint8_t)(&bytes[0]) }
