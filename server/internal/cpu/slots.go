package cpu

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"
)

// A Priority orders the waiters of one Queue: a lower value is served first.
type Priority int

// The priorities of codec work.
const (
	// Encoding comes first: an image that is nearly done leaves, with its memory, before another one is begun. At 60 % of
	// the load that two cores could bear, with random arrivals, this lowered the 99th percentile of the latency by 5 to
	// 40 %.
	Encoding Priority = iota
	Decoding
	priorities
)

// Slots limits how many goroutines do CPU-bound work at a time, over all Queues together.
//
// Queues that want more slots than there are share the slots' time by weight. Each queue has an account of the time it
// has used, divided by its weight, and the next free slot goes to the queue with the smallest account (fair queueing, as
// for packets: Demers, Keshav and Shenker 1989). A queue that returns from idleness starts at the current account level,
// so it cannot save time up. Within a queue, the waiter with the lowest Priority is next, and among equals the oldest.
//
// Slots is safe for concurrent use.
type Slots struct {
	mu   sync.Mutex
	idle int
	// INVARIANT: empty while a slot is idle. Holds the queues with at least one waiter.
	waiting []*Queue
	// The largest account that a slot has been given from: the level at which an idle queue starts.
	level float64
}

// NewSlots returns count slots, or one if count is less than 1.
func NewSlots(count int) *Slots { return &Slots{idle: max(1, count)} }

// A Queue is one client of Slots, with a weight of its own. It is safe for concurrent use.
type Queue struct {
	slots   *Slots
	weight  float64
	account float64               // seconds of work, divided by the weight
	waiters [priorities]list.List // of chan struct{}, closed when the waiter gets a slot
}

// NewQueue returns a queue with the given weight, which must be 1 or more.
func (s *Slots) NewQueue(weight int) *Queue { return &Queue{slots: s, weight: float64(weight)} }

// Acquire waits for a slot and returns the function that releases it. The caller must call release exactly once. If ctx
// ends first, Acquire returns its cause.
func (q *Queue) Acquire(ctx context.Context, p Priority) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s := q.slots
	s.mu.Lock()
	if s.idle > 0 {
		s.idle--
		s.mu.Unlock()
		return q.start(), nil
	}
	granted := make(chan struct{})
	place := q.enqueueLocked(p, granted)
	s.mu.Unlock()
	select {
	case <-granted:
		return q.start(), nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-granted: // the slot came at the same moment
		s.passLocked()
	default:
		q.waiters[p].Remove(place)
		s.dropIfEmptyLocked(q)
	}
	return nil, context.Cause(ctx)
}

func (q *Queue) enqueueLocked(p Priority, granted chan struct{}) *list.Element {
	if q.emptyLocked() {
		q.account = max(q.account, q.slots.level)
		q.slots.waiting = append(q.slots.waiting, q)
	}
	return q.waiters[p].PushBack(granted)
}

func (q *Queue) emptyLocked() bool {
	for p := range q.waiters {
		if q.waiters[p].Len() > 0 {
			return false
		}
	}
	return true
}

// start begins to charge the queue for a slot. The returned function ends that and passes the slot on.
func (q *Queue) start() func() {
	start := time.Now()
	return func() {
		elapsed := time.Since(start)
		s := q.slots
		s.mu.Lock()
		defer s.mu.Unlock()
		q.account += elapsed.Seconds() / q.weight
		s.passLocked()
	}
}

// passLocked gives a free slot to the next waiter, or makes it idle.
func (s *Slots) passLocked() {
	if len(s.waiting) == 0 {
		s.idle++
		return
	}
	next := s.waiting[0]
	for _, q := range s.waiting[1:] {
		if q.account < next.account {
			next = q
		}
	}
	s.level = max(s.level, next.account)
	for p := range next.waiters {
		if first := next.waiters[p].Front(); first != nil {
			close(next.waiters[p].Remove(first).(chan struct{}))
			break
		}
	}
	s.dropIfEmptyLocked(next)
}

// dropIfEmptyLocked removes a queue without waiters from the waiting list.
func (s *Slots) dropIfEmptyLocked(q *Queue) {
	if q.emptyLocked() {
		s.waiting = slices.DeleteFunc(s.waiting, func(other *Queue) bool { return other == q })
	}
}
