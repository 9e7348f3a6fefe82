package torch

// #include "torchherd.h"
import "C"

import (
	"io/fs"
	"strings"
)

// A Kind classifies an error. The Err constants are the kinds; match them with errors.Is.
type Kind int32

// The kinds of errors, numbered as thd_code in torchherd.h. Those from 100 on originate in Go.
const (
	// ErrInvalidArgument: an argument breaks a rule in the function's comment.
	ErrInvalidArgument Kind = C.THD_ERROR_INVALID_ARGUMENT
	// ErrNotFound: the file doesn't exist or can't be read. It matches fs.ErrNotExist too.
	ErrNotFound Kind = C.THD_ERROR_NOT_FOUND
	// ErrNotAModule: the file isn't a module or package that this LibTorch can load.
	ErrNotAModule Kind = C.THD_ERROR_NOT_A_MODULE
	// ErrDevice: the device's name is unknown, or this machine or this LibTorch lacks the device.
	ErrDevice Kind = C.THD_ERROR_DEVICE
	// ErrForward: the module failed while it ran, for example because it doesn't support the shape or dtype.
	ErrForward Kind = C.THD_ERROR_FORWARD
	// ErrOutput: the module ran, but its output doesn't have the required form.
	ErrOutput Kind = C.THD_ERROR_OUTPUT
	// ErrOutOfMemory: there isn't enough host or device memory.
	ErrOutOfMemory Kind = C.THD_ERROR_OUT_OF_MEMORY
	// ErrBadImage: the image can't be decoded: corrupt, truncated or of another format.
	ErrBadImage Kind = C.THD_ERROR_BAD_IMAGE
	// ErrTooManyPixels: the image has more pixels than the caller's limit.
	ErrTooManyPixels Kind = C.THD_ERROR_TOO_MANY_PIXELS
	// ErrNotRGB: the image has fewer than three color channels.
	ErrNotRGB Kind = C.THD_ERROR_NOT_RGB
	// ErrInternal: a defect of this package or of a library below it.
	ErrInternal Kind = C.THD_ERROR_INTERNAL
	// ErrTooMuchWork: the image needs more work than the caller's limit.
	ErrTooMuchWork Kind = C.THD_ERROR_TOO_MUCH_WORK
	// ErrCancelled: the caller ended the call. The functions of this package return the context's cause instead.
	ErrCancelled Kind = C.THD_ERROR_CANCELLED
	// ErrLibrary: the file isn't a library of operators that this LibTorch can load.
	ErrLibrary Kind = C.THD_ERROR_LIBRARY
	// ErrClosed: the file or module is closed, or the output was read before.
	ErrClosed Kind = 100
	// ErrShape: shapes don't match: a tensor's data and its shape, or the items of a stack.
	ErrShape Kind = 101
	// ErrDType: the dtype is unknown, or isn't the one that the operation needs.
	ErrDType Kind = 102
)

var kindTexts = map[Kind]string{
	ErrInvalidArgument: "invalid argument",
	ErrNotFound:        "not found",
	ErrNotAModule:      "not a module",
	ErrDevice:          "device unavailable",
	ErrForward:         "forward failed",
	ErrOutput:          "unusable output",
	ErrOutOfMemory:     "out of memory",
	ErrBadImage:        "bad image",
	ErrTooManyPixels:   "too many pixels",
	ErrNotRGB:          "not an RGB image",
	ErrInternal:        "internal error",
	ErrTooMuchWork:     "too much work",
	ErrCancelled:       "cancelled",
	ErrLibrary:         "unusable library of operators",
	ErrClosed:          "closed",
	ErrShape:           "wrong shape",
	ErrDType:           "wrong dtype",
}

// Error returns the kind's name.
func (k Kind) Error() string {
	if text, ok := kindTexts[k]; ok {
		return text
	}
	return "unknown error"
}

// An Error is the type of all errors of this package.
type Error struct {
	Op     string // the operation, such as "load"
	Kind   Kind   // what went wrong
	Detail string // to what and why; may have several lines
	Trace  string // LibTorch's own text, with the place in TorchScript's source, in many lines; empty: none
	// Wants is the dimension of the images that a package refuses, with the size that it takes; nil: unknown, or another
	// failure.
	Wants *Dimension
}

// A Dimension is a dimension of a batch of images, [N, C, H, W], from 0, and its size.
type Dimension struct{ Index, Size int }

func (e *Error) Error() string {
	if e.Detail == "" {
		return "torch: " + e.Op + ": " + e.Kind.Error()
	}
	return "torch: " + e.Op + ": " + e.Kind.Error() + ": " + e.Detail
}

// Unwrap returns the kind, so that errors.Is(err, torch.ErrForward) works.
func (e *Error) Unwrap() error { return e.Kind }

// Is reports whether target is fs.ErrNotExist and the file is missing, as for the errors of package os.
func (e *Error) Is(target error) bool {
	return target == fs.ErrNotExist && e.Kind == ErrNotFound
}

// take converts the error of a C call to a Go error and frees it. The call itself returned the error, so the goroutine
// may have moved to another thread.
func take(op string, failure *C.thd_error) error {
	if failure == nil {
		return nil
	}
	defer C.thd_error_free(failure)
	r := newReason(C.GoString(C.thd_error_message(failure)))
	e := &Error{Op: op, Kind: Kind(C.thd_error_code(failure)), Detail: r.text, Trace: r.trace, Wants: r.wants}
	if e.Kind == ErrForward { // whose text says so already
		e.Detail = strings.TrimPrefix(e.Detail, "forward: ")
	}
	return e
}
