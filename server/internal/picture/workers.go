package picture

import (
	"container/list"
	"context"
	"sync"
)

// A task is what a worker is wanted for; lower ones go first.
type task int

const (
	// Encoding is the last stage: a picture that is nearly done leaves, with its memory, before another one is begun.
	// (At 60 % of the load that two cores could bear, in random arrivals, that took 5 to 40 % from the 99th percentile of
	// the latency.)
	encoding task = iota
	decoding
	tasks
)

// Workers lets a number of goroutines decode and encode at a time, whichever Codec they work for. Of those that wait for
// the same task, the first goes first. It is safe for concurrent use.
type Workers struct {
	mu   sync.Mutex
	idle int
	// INVARIANT: empty while a worker is idle. Of chan struct{}, which are closed when their turn has come.
	waiting [tasks]list.List
}

// NewWorkers makes count workers, at least one.
func NewWorkers(count int) *Workers { return &Workers{idle: max(1, count)} }

// acquire waits for an idle worker and returns its release, or the context's cause.
func (w *Workers) acquire(ctx context.Context, t task) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w.mu.Lock()
	if w.idle > 0 {
		w.idle--
		w.mu.Unlock()
		return w.release, nil
	}
	turn := make(chan struct{})
	place := w.waiting[t].PushBack(turn)
	w.mu.Unlock()
	select {
	case <-turn:
		return w.release, nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-turn: // at the last moment
		w.pass()
	default:
		w.waiting[t].Remove(place)
	}
	return nil, context.Cause(ctx)
}

func (w *Workers) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass()
}

// pass gives a worker to whoever is next; the caller holds the lock.
func (w *Workers) pass() {
	for t := range w.waiting {
		if next := w.waiting[t].Front(); next != nil {
			close(w.waiting[t].Remove(next).(chan struct{}))
			return
		}
	}
	w.idle++
}
