package memory

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/torchherd/torchherd/torch"
)

// largePiece is the size in bytes from which freed memory goes back to the system at once.
const largePiece = 32 << 20

// ReturnLarge returns the free memory of both heaps to the system if a piece of work that has just ended needed large
// bytes. The caller calls it before it releases the Reservation of that work: otherwise Go's heap would hold the garbage of
// the last piece beside the next one, and the budget would be exceeded.
func ReturnLarge(bytes int64) {
	if bytes >= largePiece {
		trim()
	}
}

// trim returns the free memory of both heaps. That takes some milliseconds, in which other threads can't allocate.
func trim() {
	debug.FreeOSMemory()
	torch.ReleaseMemory()
}

// A Trimmer returns unused memory to the system when the process is quiet.
//
// In between, the allocators keep what was freed, because faulting the same pages in again for every forward pass costs
// more than the pass of a small model (see cli's library settings).
//
// A nil Trimmer does nothing.
type Trimmer struct {
	uses atomic.Uint64 // pieces of work that have ended
	wake chan struct{} // capacity 1: something was used since the last trim
	trim func()
}

// quiet is how long nothing may happen before memory is returned.
const quiet = 3 * time.Second

// NewTrimmer returns a Trimmer. It works while Run does.
func NewTrimmer() *Trimmer { return newTrimmer(trim) }

func newTrimmer(trim func()) *Trimmer { return &Trimmer{wake: make(chan struct{}, 1), trim: trim} }

// Used records that a piece of work has ended.
func (t *Trimmer) Used() {
	if t == nil {
		return
	}
	t.uses.Add(1)
	select {
	case t.wake <- struct{}{}:
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

// awaitQuiet returns true when nothing was used for some time, and false when ctx ends.
func (t *Trimmer) awaitQuiet(ctx context.Context) bool {
	ticker := time.NewTicker(quiet)
	defer ticker.Stop()
	for seen := t.uses.Load(); ; {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
			uses := t.uses.Load()
			if uses == seen {
				return true
			}
			seen = uses
		}
	}
}
