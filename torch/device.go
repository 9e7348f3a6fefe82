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

// A Device is the device that holds and runs a module. The zero value is the CPU.
type Device struct {
	cuda  bool
	index int
}

// CPU is the host processor.
var CPU = Device{}

// NewDevice parses a device's name: "cpu", "cuda" (the same as cuda:0) or "cuda:N". It doesn't check that the machine
// has the device; Available does. Errors: ErrDevice.
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
	return Device{}, &Error{Op: "new device", Kind: ErrDevice, Detail: fmt.Sprintf("unknown device %q; use cpu, cuda or cuda:N", name)}
}

// String returns the device's name as PyTorch writes it: "cpu" or "cuda:0".
func (d Device) String() string {
	if d.cuda {
		return "cuda:" + strconv.Itoa(d.index)
	}
	return "cpu"
}

// Available returns nil if this machine can use the device, and otherwise an ErrDevice that names what is missing. The
// first call for a CUDA device loads LibTorch's CUDA library, which takes seconds. It must come before any module is
// loaded, since LibTorch looks for CUDA only once.
func (d Device) Available() error {
	if err := checkAPI(); err != nil {
		return err
	}
	name := C.CString(d.String())
	defer C.free(unsafe.Pointer(name))
	return take("device", C.thd_device_check(name))
}

// capability returns the device's compute capability, such as 90, or 0 if it is unknown. Errors: ErrDevice.
func (d Device) capability() (int, error) {
	name := C.CString(d.String())
	defer C.free(unsafe.Pointer(name))
	var capability C.int32_t
	err := take("device", C.thd_device_capability(name, &capability))
	return int(capability), err
}
