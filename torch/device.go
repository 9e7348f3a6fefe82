package torch

/*
#include <stdlib.h>
#include "torchherd.h"
*/
import "C"

import (
	"fmt"
	"strconv"
	"strings"
	"unsafe"
)

// A Device is where a module lives and runs. The zero value is the CPU.
type Device struct {
	cuda  bool
	index int
}

// CPU is the host's processor.
var CPU = Device{}

// NewDevice reads a device's name: "cpu", "cuda" (which is cuda:0) or "cuda:N". It looks at the name only;
// Available looks at the machine. Errors: ErrDevice.
func NewDevice(name string) (Device, error) {
	kind, number, numbered := strings.Cut(name, ":")
	switch {
	case kind == "cpu" && !numbered:
		return CPU, nil
	case kind == "cuda" && !numbered:
		return Device{cuda: true}, nil
	case kind == "cuda":
		if index, err := strconv.ParseUint(number, 10, 7); err == nil {
			return Device{cuda: true, index: int(index)}, nil
		}
	}
	return Device{}, &Error{Op: "new device", Kind: ErrDevice, Detail: fmt.Sprintf("no device is called %q; use cpu, cuda or cuda:N", name)}
}

// String is the device's name as PyTorch writes it: "cpu" or "cuda:0".
func (d Device) String() string {
	if d.cuda {
		return "cuda:" + strconv.Itoa(d.index)
	}
	return "cpu"
}

// Available returns nil if the device can be used here, or an error that says what is missing (ErrDevice). The
// first call for a CUDA device loads LibTorch's CUDA library, which takes seconds; it must come before any
// module is loaded, since LibTorch looks for CUDA only once.
func (d Device) Available() error {
	if err := checkABI(); err != nil {
		return err
	}
	name := C.CString(d.String())
	defer C.free(unsafe.Pointer(name))
	return take("device", C.thd_device_check(name))
}

// capability is the device's compute capability, such as 90; 0 when it isn't known. Errors: ErrDevice.
func (d Device) capability() (int, error) {
	name := C.CString(d.String())
	defer C.free(unsafe.Pointer(name))
	var capability C.int32_t
	err := take("device", C.thd_device_capability(name, &capability))
	return int(capability), err
}
