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

// A File is an open model file: TorchScript (torch.jit.save, .pt) or an AOTInductor package
// (torch._inductor.aoti_compile_and_package, .pt2). Its content decides which of the two it is. All methods refer to
// the file that was opened, also after another file has taken its name.
//
// All methods except Close are safe for concurrent use.
type File struct {
	name    string
	file    *os.File // nil: the file is in content
	content []byte
	size    int64
	archive archive
}

// Open opens a model file. It doesn't check the content; Load does.
//
// Errors: ErrNotFound, also for a file that can't be read; ErrNotAModule if it isn't a regular file, such as a
// directory.
func Open(path string) (*File, error) {
	// Without O_NONBLOCK, opening a pipe blocks until another process opens it for writing.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &Error{Op: "open", Kind: ErrNotFound, Detail: err.Error()}
	}
	return NewFile(file)
}

// NewFile is like Open for a file that is already open. The File owns it; NewFile closes it if it returns an error.
func NewFile(file *os.File) (*File, error) {
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is %s; specify a model file (.pt, .pt2)", file.Name(), kindOf(info.Mode()))
	}
	if err != nil {
		_ = file.Close()
		return nil, &Error{Op: "open", Kind: ErrNotAModule, Detail: err.Error()}
	}
	return &File{name: file.Name(), file: file, size: info.Size(), archive: openArchive(file, info.Size())}, nil
}

// kindOf describes a file that isn't regular.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// NewBytes returns a File with the given content, which must not change until Close.
func NewBytes(content []byte) *File {
	size := int64(len(content))
	return &File{name: "the model in memory", content: content, size: size, archive: openArchive(bytes.NewReader(content), size)}
}

// Close closes the file. Modules that were loaded from it stay usable.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// Name returns the file's name in messages.
func (f *File) Name() string { return f.name }

// IsPackage reports whether the file is an AOTInductor package.
func (f *File) IsPackage() bool { return len(f.archive.packageFiles()) > 0 }

// Extra returns a record that the exporter has added to the model: torch.jit.save and aoti_compile_and_package store
// such records in the archive's directory extra. It returns nil if the file lacks the record or isn't an archive; Load
// reports the latter. A record that is corrupt or has more than 1 MiB is an error.
func (f *File) Extra(name string) ([]byte, error) {
	content, err := f.archive.extra(name)
	if err != nil {
		return nil, &Error{Op: "read extra", Kind: ErrNotAModule, Detail: f.name + ": " + err.Error()}
	}
	return content, nil
}

// Size returns the uncompressed size of the archive's records, which is roughly the memory of the weights. For a file
// that isn't an archive, it returns the file's size.
func (f *File) Size() int64 {
	if len(f.archive.zip.File) == 0 {
		return f.size
	}
	return f.archive.size()
}

// Load loads the model onto a device. Each call returns another module.
//
// A package is machine code: load only packages from a trusted source. The same holds for TorchScript. If a package has
// a record extra/torchherd.json (torchherd_tools export writes it), each input is checked against it; otherwise the package
// checks its inputs itself.
//
// Errors: ErrNotAModule; ErrDevice, also for a package that was compiled for another device; ErrOutOfMemory;
// ErrInvalidArgument for options that the device doesn't support; ErrClosed after Close.
func (f *File) Load(options Options) (*Module, error) {
	if err := f.check("load"); err != nil {
		return nil, err
	}
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
	// Control prevents Close from closing the descriptor during the call, when its number could become another file's.
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
	return load(options, func(options *C.thd_load_options, out **C.thd_module) *C.thd_error {
		return C.thd_module_load_memory(unsafe.Pointer(&f.content[0]), C.size_t(len(f.content)), options, out)
	})
}

// Load opens a model file, loads it and closes it. Errors: as Open and File.Load.
func Load(path string, options Options) (*Module, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return file.Load(options)
}
