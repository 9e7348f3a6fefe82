//go:build !linux

package isolation

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/torch"
)

// Supported reports whether this system has what runners need.
const Supported = false

var errUnsupported = errors.New("isolation: runners need Linux")

// Main does nothing: there are no children.
func Main() {}

// A Model is a model's file.
type Model struct {
	Name    string
	File    *os.File
	Content []byte
}

// An Arena can't be made.
type Arena struct{}

// NewArena returns an error.
func NewArena() (*Arena, error) { return nil, errUnsupported }

// Alloc returns memory on Go's heap.
func (*Arena) Alloc(size int) []byte { return make([]byte, size) }

// Free reports false.
func (*Arena) Free([]byte) bool { return false }

// Close does nothing.
func (*Arena) Close() error { return nil }

// A Runner can't be made.
type Runner struct{}

// Start returns an error.
func Start(context.Context, Config) (*Runner, error) { return nil, errUnsupported }

// Info returns nothing.
func (*Runner) Info() torch.Info { return torch.Info{} }

// ProcessorTime returns 0.
func (*Runner) ProcessorTime() time.Duration { return 0 }

// Lacking returns nothing.
func (*Runner) Lacking() []string { return nil }

// Bind returns an error.
func (*Runner) Bind(*cpu.Shares, string, int) error { return errUnsupported }

// SetThreads returns an error.
func (*Runner) SetThreads(int) error { return errUnsupported }

// CheckFinite returns an error.
func (*Runner) CheckFinite(torch.Images) error { return errUnsupported }

// Start returns an error.
func (*Runner) Start(torch.Images) (Answer, error) { return nil, errUnsupported }

// Supervise does nothing.
func (*Runner) Supervise(Supervision) {}

// Healthy returns an error.
func (*Runner) Healthy() error { return errUnsupported }

// Failed returns nil.
func (*Runner) Failed() <-chan error { return nil }

// Close does nothing.
func (*Runner) Close() error { return nil }

// AvailableMemory returns 0: unknown.
func AvailableMemory() int64 { return 0 }
