package torch

/*
#include <stdlib.h>
#include "torchherd.h"
*/
import "C"

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"
)

// LoadOperators loads a shared library whose operators modules and packages may then use, such as torchvision's. The
// library stays loaded; loading it again does nothing. Call LoadOperators after Device.Available of a CUDA device, and
// before the module is loaded.
//
// A library is machine code: load only libraries from a trusted source. Errors: ErrNotFound; ErrLibrary, also for a library
// that was built for another LibTorch.
func LoadOperators(path string) error {
	const op = "load operators"
	if err := checkAPI(); err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return &Error{Op: op, Kind: ErrNotFound, Detail: err.Error()}
	case !info.Mode().IsRegular():
		return &Error{Op: op, Kind: ErrLibrary, Detail: fmt.Sprintf("%s is %s; name the library's file (.so)", path, kindOf(info.Mode()))}
	case runtime.GOOS == "linux":
		if err := checkLibrary(path); err != nil {
			return &Error{Op: op, Kind: ErrLibrary, Detail: fmt.Sprintf("%s: not a shared library: %v", path, err)}
		}
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return &Error{Op: op, Kind: ErrNotFound, Detail: err.Error()}
	}
	name := C.CString(absolute)
	defer C.free(unsafe.Pointer(name))
	return take(op, C.thd_load_operators(name))
}
