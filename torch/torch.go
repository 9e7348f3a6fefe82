// Package torch runs TorchScript modules and AOTInductor packages with LibTorch, and decodes, resizes and encodes
// images for them.
//
// It is the Go binding of libtorchherd's C API (csrc/include/torchherd.h) and uses the vocabulary of PyTorch and
// torchvision where the meaning is the same. It has no HTTP and no batching of requests.
//
//	device, err := torch.NewDevice("cpu")
//	module, err := torch.Load("generator.pt", torch.Options{Device: device})
//	defer module.Close()
//	output, err := module.Forward(batch)
//
// # Errors
//
// Every error is an [*Error], which wraps one of the Err values of this package; match them with errors.Is. The
// exceptions are errors of package os, which are wrapped. Bad input causes no panic, and an exception in C++ doesn't
// end the process.
//
// # Memory
//
// All tensors and images are in Go memory. C uses them during a call only and keeps no pointer to them. Only a [Module]
// and an [Answer] own C memory; Close and Read free it.
//
// # Threads
//
// All functions are safe for concurrent use; calls on one Module run one after another. LibTorch keeps state per
// operating system thread (thread pools and caches), so a module runs fastest when one goroutine that has called
// runtime.LockOSThread makes all its calls.
package torch

/*
#cgo CFLAGS: -I${SRCDIR}/../csrc/include
#cgo noescape thd_set_num_threads
#cgo nocallback thd_set_num_threads
#include "torchherd.h"
*/
import "C"

import (
	"fmt"
	"sync"
)

// Version returns the version of LibTorch that libtorchherd was built against, such as "2.15.0".
func Version() string { return C.GoString(C.thd_libtorch_version()) }

// JPEGVersion returns the version of libjpeg-turbo that libtorchherd was built against.
func JPEGVersion() string { return C.GoString(C.thd_libjpeg_version()) }

// SetNumThreads sets the number of threads that one forward may use (LibTorch's intra-op threads), for the whole
// process. n must be at least 1. Call it before the first forward.
func SetNumThreads(n int) error {
	if err := checkAPI(); err != nil {
		return err
	}
	return take("set num threads", C.thd_set_num_threads(C.int32_t(n)))
}

// NumThreads returns the number of threads that one forward may use.
func NumThreads() int { return int(C.thd_num_threads()) }

// ReleaseThreads ends the threads that LibTorch has started for forwards of the calling thread; its next forward starts
// them again, in about 0.1 ms. While more such threads exist than cores, even if they are idle, OpenMP takes the cores for
// overloaded, and threads that wait for each other in a forward sleep at once, which can halve its speed. Call it when the
// thread has no forward for a while.
func ReleaseThreads() { C.thd_release_threads() }

// ReleaseMemory returns the memory of closed modules to the system; the C allocator keeps what Module.Close frees. It
// takes milliseconds, during which other threads can't allocate C memory.
func ReleaseMemory() { C.thd_release_memory() }

// checkAPI checks once that this package can use the library that was found at run time.
var checkAPI = sync.OnceValue(func() error {
	var major, minor C.uint32_t
	C.thd_api_version(&major, &minor)
	return checkAPIVersion(uint32(major), uint32(minor), C.THD_API_VERSION_MAJOR, C.THD_API_VERSION_MINOR)
})

// checkAPIVersion compares the API version of the library with the one that this package was compiled for. A later
// minor version only adds to an earlier one.
func checkAPIVersion(major, minor, wantMajor, wantMinor uint32) error {
	if major == wantMajor && minor >= wantMinor {
		return nil
	}
	return &Error{Op: "start", Kind: ErrInternal, Detail: fmt.Sprintf(
		"libtorchherd has API version %d.%d, and this program needs %d.%d or a later %d.x: build both from the same source",
		major, minor, wantMajor, wantMinor, wantMajor)}
}
