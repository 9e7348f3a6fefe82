package torch

// #include "torchherd.h"
import "C"

import "io/fs"

// A Kind says what sort of thing went wrong. The Err constants are the kinds, and errors to be matched by
// errors.Is.
type Kind int32

// The kinds of failure, numbered as thd_code in torchherd.h; those from 100 on arise in Go.
const (
	// ErrInvalidArgument: the caller broke a rule that the function's comment states.
	ErrInvalidArgument Kind = C.THD_ERROR_INVALID_ARGUMENT
	// ErrNotFound: no file at the path, or it can't be read. Matches fs.ErrNotExist too.
	ErrNotFound Kind = C.THD_ERROR_NOT_FOUND
	// ErrNotAModule: not a TorchScript module that this LibTorch can load.
	ErrNotAModule Kind = C.THD_ERROR_NOT_A_MODULE
	// ErrDevice: no device has this name, or this machine or this LibTorch lacks it.
	ErrDevice Kind = C.THD_ERROR_DEVICE
	// ErrForward: the module raised an error while it ran, as it does for a shape or a dtype that it doesn't
	// take.
	ErrForward Kind = C.THD_ERROR_FORWARD
	// ErrOutput: the module ran, but its answer isn't of the form that was asked for.
	ErrOutput Kind = C.THD_ERROR_OUTPUT
	// ErrOutOfMemory: host or device memory didn't suffice.
	ErrOutOfMemory Kind = C.THD_ERROR_OUT_OF_MEMORY
	// ErrBadImage: the bytes can't be decoded: broken, truncated or of another format.
	ErrBadImage Kind = C.THD_ERROR_BAD_PICTURE
	// ErrTooManyPixels: the picture has more pixels than the caller's limit.
	ErrTooManyPixels Kind = C.THD_ERROR_TOO_MANY_PIXELS
	// ErrNotRGB: the picture has fewer than three colour channels.
	ErrNotRGB Kind = C.THD_ERROR_NOT_RGB
	// ErrInternal: a defect of this package or of a library beneath it.
	ErrInternal Kind = C.THD_ERROR_INTERNAL
	// ErrClosed: the module was closed before.
	ErrClosed Kind = 100
	// ErrShape: shapes that don't fit together: a tensor's data and its shape, or the items of a stack.
	ErrShape Kind = 101
	// ErrDType: a dtype that isn't known, or not the one that the operation needs.
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
	ErrBadImage:        "bad picture",
	ErrTooManyPixels:   "too many pixels",
	ErrNotRGB:          "not an RGB picture",
	ErrInternal:        "internal error",
	ErrClosed:          "closed",
	ErrShape:           "wrong shape",
	ErrDType:           "wrong dtype",
}

// Error is the kind's name.
func (k Kind) Error() string {
	if text, ok := kindTexts[k]; ok {
		return text
	}
	return "unknown error"
}

// An Error is any failure of this package.
type Error struct {
	Op     string // what was being done, such as "load"
	Kind   Kind   // what went wrong
	Detail string // to what and why, for people; may have several lines
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return "torch: " + e.Op + ": " + e.Kind.Error()
	}
	return "torch: " + e.Op + ": " + e.Kind.Error() + ": " + e.Detail
}

// Unwrap gives the kind, so that errors.Is(err, torch.ErrForward) works.
func (e *Error) Unwrap() error { return e.Kind }

// Is lets a missing file match fs.ErrNotExist as well, as the errors of package os do.
func (e *Error) Is(target error) bool {
	return target == fs.ErrNotExist && e.Kind == ErrNotFound
}

// take turns the error that a C call returned into a Go error and frees it. The error was made by that very
// call, so it doesn't matter if the goroutine has moved to another thread meanwhile.
func take(op string, failure *C.thd_error) error {
	if failure == nil {
		return nil
	}
	defer C.thd_error_free(failure)
	return &Error{
		Op:     op,
		Kind:   Kind(C.thd_error_code(failure)),
		Detail: C.GoString(C.thd_error_message(failure)),
	}
}
