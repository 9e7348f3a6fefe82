package picture

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"
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

// Workers lets a number of goroutines decode and encode at a time, whichever Codec they work for. It is safe for
// concurrent use.
//
// Codecs that want more than there is share the workers' time by their weights. Each codec has an account of the time
// that it has had, divided by its weight, and the next worker goes to the one with the least (fair queueing, as for
// packets: Demers, Keshav and Shenker 1989). One that comes back from idleness has saved nothing up meanwhile. Within a
// codec encoding goes before decoding, and else the first before the next.
type Workers struct {
	mu   sync.Mutex
	idle int
	// INVARIANT: empty while a worker is idle. Those queues in which somebody waits.
	waiting []*queue
	// The greatest account from which a worker has been given: what one that comes back from idleness begins with.
	now float64
}

// A queue is a codec's place before the workers.
type queue struct {
	workers *Workers
	weight  float64
	account float64          // seconds of work, divided by the weight
	turns   [tasks]list.List // of chan struct{}, which are closed when their turn has come
}

// NewWorkers makes count workers, at least one.
func NewWorkers(count int) *Workers { return &Workers{idle: max(1, count)} }

func (w *Workers) newQueue(weight int) *queue { return &queue{workers: w, weight: float64(weight)} }

// acquire waits for an idle worker and returns its release, or the context's cause.
func (q *queue) acquire(ctx context.Context, t task) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w := q.workers
	w.mu.Lock()
	if w.idle > 0 {
		w.idle--
		w.mu.Unlock()
		return q.begin(), nil
	}
	turn := make(chan struct{})
	place := q.line(t, turn)
	w.mu.Unlock()
	select {
	case <-turn:
		return q.begin(), nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-turn: // at the last moment
		w.pass()
	default:
		q.turns[t].Remove(place)
		w.leaveIfEmpty(q)
	}
	return nil, context.Cause(ctx)
}

// line puts a turn at the end of the queue; the caller holds the lock.
func (q *queue) line(t task, turn chan struct{}) *list.Element {
	if q.empty() {
		q.account = max(q.account, q.workers.now)
		q.workers.waiting = append(q.workers.waiting, q)
	}
	return q.turns[t].PushBack(turn)
}

func (q *queue) empty() bool {
	for t := range q.turns {
		if q.turns[t].Len() > 0 {
			return false
		}
	}
	return true
}

// begin starts the clock of a worker and returns what stops it and passes the worker on.
func (q *queue) begin() func() {
	start := time.Now()
	return func() {
		took := time.Since(start)
		w := q.workers
		w.mu.Lock()
		defer w.mu.Unlock()
		q.account += took.Seconds() / q.weight
		w.pass()
	}
}

// pass gives a worker to whoever is next; the caller holds the lock.
func (w *Workers) pass() {
	if len(w.waiting) == 0 {
		w.idle++
		return
	}
	next := w.waiting[0]
	for _, q := range w.waiting[1:] {
		if q.account < next.account {
			next = q
		}
	}
	w.now = max(w.now, next.account)
	for t := range next.turns {
		if first := next.turns[t].Front(); first != nil {
			close(next.turns[t].Remove(first).(chan struct{}))
			break
		}
	}
	w.leaveIfEmpty(next)
}

// leaveIfEmpty takes a queue out in which nobody waits any more; the caller holds the lock.
func (w *Workers) leaveIfEmpty(q *queue) {
	if q.empty() {
		w.waiting = slices.DeleteFunc(w.waiting, func(each *queue) bool { return each == q })
	}
}
