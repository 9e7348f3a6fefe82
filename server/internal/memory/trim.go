package memory

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/torchherd/torchherd/torch"
)

// A Trimmer returns unused memory to the system when the process is quiet, and soon after large pieces were freed.
//
// In between, the allocators keep what was freed, because faulting the same pages in again for every forward pass costs
// more than the pass of a small model (see cli's library settings). Trimming takes milliseconds, in which other threads
// can't allocate.
//
// A nil Trimmer does nothing.
type Trimmer struct {
	uses  atomic.Uint64 // pieces of work that have ended
	wake  chan struct{} // capacity 1: something was used since the last trim
	large chan struct{} // capacity 1: a large piece was freed since the last trim
	trim  func()
}

const (
	// quiet is how long nothing may happen before memory is returned.
	quiet = 3 * time.Second
	// largePiece is the size in bytes from which a freed piece is returned without waiting for quiet.
	largePiece = 64 << 20
	// largePause is the least time between two trims after large pieces.
	largePause = time.Second
)

// NewTrimmer returns a Trimmer. It works while Run does.
func NewTrimmer() *Trimmer { return newTrimmer(trim) }

func newTrimmer(trim func()) *Trimmer {
	return &Trimmer{wake: make(chan struct{}, 1), large: make(chan struct{}, 1), trim: trim}
}

// trim returns the free memory of both heaps.
func trim() {
	debug.FreeOSMemory()
	torch.ReleaseMemory()
}

// Used records that a piece of work has ended that needed bytes at its peak.
func (t *Trimmer) Used(bytes int64) {
	if t == nil {
		return
	}
	t.uses.Add(1)
	if bytes >= largePiece {
		signal(t.large)
	}
	signal(t.wake)
}

func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default: // a signal is pending already
	}
}

// Run trims until ctx ends. It sleeps while nothing was used since the last trim.
func (t *Trimmer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		if !t.awaitQuiet(ctx) {
			return
		}
		// What is used from here on signals again. What was used before is trimmed now.
		select {
		case <-t.wake:
		default:
		}
		t.trim()
	}
}

// awaitQuiet returns true when nothing was used for some time, and false when ctx ends. Meanwhile it trims after large
// pieces.
func (t *Trimmer) awaitQuiet(ctx context.Context) bool {
	for seen := t.uses.Load(); ; {
		select {
		case <-ctx.Done():
			return false
		case <-t.large:
			t.trim()
			if !sleep(ctx, largePause) {
				return false
			}
		case <-time.After(quiet):
			uses := t.uses.Load()
			if uses == seen {
				return true
			}
			seen = uses
		}
	}
}

// sleep returns true after d, and false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
