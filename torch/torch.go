// Package torch runs TorchScript modules with LibTorch, and reads and writes the pictures they work on.
//
// It is the Go binding of libtorchherd's C ABI (csrc/include/torchherd.h) and keeps the vocabulary of PyTorch
// and torchvision where the meaning is the same. It knows nothing of HTTP or of gathering requests.
//
//	device, err := torch.NewDevice("cpu")
//	module, err := torch.Load("generator.pt", torch.Options{Device: device})
//	defer module.Close()
//	output, err := module.Forward(batch)
//
// # Errors
//
// Every failure is an [*Error] that wraps one of the Err values of this package, to be matched by errors.Is.
// Nothing here panics on bad input, and no failure in C++ ends the process.
//
// # Memory
//
// All tensors and pictures are Go memory. The C side borrows them for the length of a call and keeps no
// pointer. Only a [Module] and an [Answer] hold C memory; Close and Read return it.
//
// # Threads
//
// All functions are safe for concurrent use; calls on one Module take turns. LibTorch keeps state per
// operating system thread (its thread pool and caches), so a module runs best from one goroutine that has
// called runtime.LockOSThread.
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

// Version is the version of LibTorch that the shim was built against, such as "2.15.0".
func Version() string { return C.GoString(C.thd_libtorch_version()) }

// JPEGVersion is the version of libjpeg-turbo that the shim was built against.
func JPEGVersion() string { return C.GoString(C.thd_libjpeg_version()) }

// SetNumThreads sets how many threads one forward may use (LibTorch's intra-op threads), n >= 1, for the whole
// process. Call it before the first forward.
func SetNumThreads(n int) error {
	if err := checkABI(); err != nil {
		return err
	}
	return take("set num threads", C.thd_set_num_threads(C.int32_t(n)))
}

// NumThreads is the number of threads that one forward may use.
func NumThreads() int { return int(C.thd_num_threads()) }

// ReleaseMemory gives memory that modules have left behind back to the system. C's allocator keeps what Module.Close
// frees, for the next one. It takes milliseconds, in which others wait to allocate.
func ReleaseMemory() { C.thd_release_memory() }

// checkABI makes sure, once, that the library found at run time is the one this package was compiled for.
var checkABI = sync.OnceValue(func() error {
	if have := uint32(C.thd_abi_version()); have != C.THD_ABI_VERSION {
		return &Error{Op: "start", Kind: ErrInternal, Detail: fmt.Sprintf(
			"libtorchherd has ABI version %d and this program needs %d: build both from the same source",
			have, C.THD_ABI_VERSION)}
	}
	return nil
})
