package isolation

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A Model is a model's file.
type Model struct {
	Name string // in messages
	// File is the open file. Its position is neither used nor changed.
	File *os.File
	// Content is the model if there is no File.
	Content []byte
}

// keep returns a descriptor of the model for the time of a runner.
func (m *Model) keep() (*os.File, error) {
	if m.File == nil {
		return inMemory(m.Content)
	}
	connection, err := m.File.SyscallConn()
	if err != nil {
		return nil, err
	}
	var copied int
	var failed error
	err = connection.Control(func(descriptor uintptr) {
		copied, failed = unix.FcntlInt(descriptor, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("isolation: duplicate the descriptor of %s: %w", m.Name, err)
	}
	return os.NewFile(uintptr(copied), m.Name), nil
}

// inMemory returns a file with this content, which lies in memory.
func inMemory(content []byte) (*os.File, error) {
	descriptor, err := unix.MemfdCreate("torchherd-model", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("isolation: create a file in memory: %w", err)
	}
	file := os.NewFile(uintptr(descriptor), "torchherd-model")
	if _, err := file.Write(content); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("isolation: write a file in memory: %w", err)
	}
	return file, nil
}

// fileState is what changes when a file is written to.
func fileState(file *os.File) (string, error) {
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano()), nil
}
