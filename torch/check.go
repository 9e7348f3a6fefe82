package torch

import (
	"errors"
	"io"
	"os"
)

// Check reports whether the file can hold a model, by its beginning and its archive's directory: nothing is loaded. Load may
// still fail. The error names what else the file is, and what turns that into a model.
//
// Errors: ErrNotAModule.
func (f *File) Check() error { return f.check("check") }

func (f *File) check(op string) error {
	head := make([]byte, headSize)
	n, err := f.readHead(head)
	switch {
	case errors.Is(err, os.ErrClosed):
		return &Error{Op: op, Kind: ErrClosed, Detail: f.name}
	case err != nil:
		return &Error{Op: op, Kind: ErrNotAModule, Detail: f.name + ": " + err.Error()}
	case int64(n) < min(f.size, headSize):
		return &Error{Op: op, Kind: ErrNotAModule, Detail: f.name + ": it is truncated; is it still being written?"}
	}
	if problem := f.archive.problem(f.name, f.size, head[:n]); problem != "" {
		return &Error{Op: op, Kind: ErrNotAModule, Detail: f.name + ": " + problem}
	}
	return nil
}

// readHead reads the beginning of the file.
func (f *File) readHead(head []byte) (int, error) {
	if f.file == nil {
		return copy(head, f.content), nil
	}
	n, err := f.file.ReadAt(head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
