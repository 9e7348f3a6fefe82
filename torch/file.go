package torch

/*
#include <stdlib.h>
#include "torchherd.h"
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"unsafe"
)

// A File is a model's file, opened: TorchScript (torch.jit.save, .pt) or an AOTInductor package
// (torch._inductor.aoti_compile_and_package, .pt2), told apart by content. What its methods tell and load is one file's,
// also when another one takes its name meanwhile.
//
// Its methods other than Close are safe for concurrent use.
type File struct {
	name    string
	file    *os.File // nil: content is used
	content []byte
	size    int64
	archive archive
}

// Open opens a model's file. Whether it holds a model, Load tells.
//
// Errors: ErrNotFound, also for a file that can't be read; ErrNotAModule for what is no file, such as a folder.
func Open(path string) (*File, error) {
	// Without O_NONBLOCK, opening a pipe waits for somebody who writes to it.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &Error{Op: "open", Kind: ErrNotFound, Detail: err.Error()}
	}
	return NewFile(file)
}

// NewFile is Open for a file that is open already. The File closes it, and also when there is an error.
func NewFile(file *os.File) (*File, error) {
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is %s; name a model's file (.pt, .pt2)", file.Name(), kindOf(info.Mode()))
	}
	if err != nil {
		_ = file.Close()
		return nil, &Error{Op: "open", Kind: ErrNotAModule, Detail: err.Error()}
	}
	return &File{name: file.Name(), file: file, size: info.Size(), archive: openArchive(file, info.Size())}, nil
}

// kindOf is what a file is that isn't a regular one.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// NewBytes is a file's content in memory, which must not change until Close.
func NewBytes(content []byte) *File {
	size := int64(len(content))
	return &File{name: "the model in memory", content: content, size: size, archive: openArchive(bytes.NewReader(content), size)}
}

// Close closes the file. Modules that were loaded from it live on.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// IsPackage tells whether the file is an AOTInductor package.
func (f *File) IsPackage() bool { return len(f.archive.packageFiles()) > 0 }

// Extra returns a record of the file that isn't PyTorch's own: those that torch.jit.save and aoti_compile_and_package
// keep in the archive's folder extra. It returns nil for a file without the record, as for one that is no archive: what
// is wrong with that, Load tells. A record of more than 1 MiB, or a broken one, is an error.
func (f *File) Extra(name string) ([]byte, error) {
	content, err := f.archive.extra(name)
	if err != nil {
		return nil, &Error{Op: "read extra", Kind: ErrNotAModule, Detail: f.name + ": " + err.Error()}
	}
	return content, nil
}

// Size is the bytes of the archive's records, uncompressed: roughly the memory that the weights take. Of a file that is
// no archive it is the file's size.
func (f *File) Size() int64 {
	if len(f.archive.zip.File) == 0 {
		return f.size
	}
	return f.archive.size()
}

// Load loads the model onto a device. It may be called again, for another module of the same file.
//
// A package is machine code: load only those whose maker is trusted, as with TorchScript. Its input is checked before
// each call if it has a record extra/torchherd.json that states it (models/export.py writes one); else it checks by
// itself.
//
// Errors: ErrNotAModule, ErrDevice (also for a package that was compiled for another one), ErrOutOfMemory;
// ErrInvalidArgument for options that the device doesn't have; ErrClosed after Close.
func (f *File) Load(options Options) (*Module, error) {
	if files := f.archive.packageFiles(); len(files) > 0 {
		m, err := f.loadPackage(files, options)
		if failure := (*Error)(nil); errors.As(err, &failure) {
			failure.Detail = f.name + ": " + failure.Detail
		}
		return m, err
	}
	if f.file == nil {
		return f.loadBytes(options)
	}
	connection, err := f.file.SyscallConn()
	if err != nil {
		return nil, &Error{Op: "load", Kind: ErrClosed, Detail: f.name}
	}
	name := C.CString(f.name)
	defer C.free(unsafe.Pointer(name))
	var m *Module
	// Control keeps the descriptor from being closed, and its number from being another file's, until C is done with it.
	failed := connection.Control(func(descriptor uintptr) {
		m, err = load(options, func(options *C.thd_load_options, out **C.thd_module) *C.thd_error {
			return C.thd_module_load(C.int32_t(descriptor), name, options, out)
		})
	})
	if failed != nil {
		return nil, &Error{Op: "load", Kind: ErrClosed, Detail: f.name}
	}
	return m, err
}

func (f *File) loadBytes(options Options) (*Module, error) {
	if len(f.content) == 0 {
		return nil, &Error{Op: "load", Kind: ErrNotAModule, Detail: f.name + ": it has no bytes"}
	}
	return load(options, func(options *C.thd_load_options, out **C.thd_module) *C.thd_error {
		return C.thd_module_load_memory(unsafe.Pointer(&f.content[0]), C.size_t(len(f.content)), options, out)
	})
}

// Load opens a model's file, loads it and closes it. Errors: Open's and File.Load's.
func Load(path string, options Options) (*Module, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return file.Load(options)
}
