// Package batch gathers single items into batches for a function that works best on several at once.
//
// # Contract
//
//   - Order: items of one shape enter batches in the order in which they were accepted, and results[i] goes to
//     the item that was items[i]. A batch holds items of one shape only.
//   - One reply: every Submit returns exactly once, with its item's result or with an error.
//   - Waiting: an item waits for company at most MaxWait from its own arrival, however many come after it; then
//     it is launched as soon as the runner is free. A full batch is launched at once. Of several launchable
//     batches the one with the oldest item goes first, so no shape starves.
//   - Refusal: Submit on a full queue returns ErrFull at once and blocks nobody. Only waiting items count; those
//     in a running batch have left the queue.
//   - Cancellation: an item whose context is done never enters a batch, gives its place in the queue back at
//     once, and its Submit returns the context's cause. When its batch is already running, Submit returns
//     likewise and the result is dropped.
//   - Failure: an error or a panic of Run reaches the items of that batch, and no others.
//   - Close: accepted items are answered, without waiting for company; what comes later gets ErrClosed.
//     StopWaiting comes before it when items on their way shall still be taken.
//
// # How it does so
//
// A runner is a goroutine, locked to its operating system thread, that takes batches from the queue and calls Run.
// The queue is guarded by one mutex and holds a first-in-first-out bucket for each shape. Whoever changes it
// signals the runners, one of which decides what to launch and until when to sleep. Beside each runner stands a
// finisher, the goroutine that waits for a batch's results and hands them out, while the runner starts the next
// batch. Rejected: a timer for each item, as the demo has, which fires on queues that have meanwhile been emptied;
// and channels as the queue, from which a cancelled item can't be taken out.
package batch

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// ErrFull is Submit's answer when MaxQueueSize items are waiting. Trying again later may succeed.
var ErrFull = errors.New("batch: the queue is full")

// ErrClosed is Submit's answer after Close.
var ErrClosed = errors.New("batch: closed")

// A WaitPolicy says when an incomplete batch waits for more items.
type WaitPolicy int

const (
	// Adaptive waits only while further items are on their way, that is, while an Arrival is younger than
	// MaxWait and has neither submitted nor left; so a lone item doesn't wait.
	Adaptive WaitPolicy = iota
	// Fixed always waits, as the Sanic demo does.
	Fixed
)

// Config is what a Batcher needs. T is the type of an item, R of its result, K of a shape.
type Config[K comparable, T, R any] struct {
	MaxBatchSize int           // items in a batch at most; 1 or more
	MaxQueueSize int           // items waiting at most; 1 or more
	MaxWait      time.Duration // how long an item waits for company at most; 0: not at all
	WaitPolicy   WaitPolicy

	// Runners is how many batches are run side by side; 1 or more.
	Runners int

	// Shape says which items can share a batch: those with equal shapes.
	Shape func(T) K
	// Run starts the work on a batch of 1 to MaxBatchSize items and returns the function that waits for the results,
	// as many as items, in their order. It may do all of the work itself. A runner's calls (runners count from 0)
	// come one after the other, all on one operating system thread; the function that it returned is called on
	// another one, while the next batch is started, and must have returned before a further one is. Neither may keep
	// the slice nor, after the second has returned, the items.
	Run func(runner int, items []T) (finish func() ([]R, error), err error)
	// Setup, if set, is called once for each runner, on the thread that will call Run, before the first batch; never
	// twice at a time. Its error is New's.
	Setup func(runner int) error
}

func (c *Config[K, T, R]) validate() error {
	switch {
	case c.MaxBatchSize < 1:
		return fmt.Errorf("batch: max batch size is %d and must be 1 or more", c.MaxBatchSize)
	case c.MaxQueueSize < 1:
		return fmt.Errorf("batch: max queue size is %d and must be 1 or more", c.MaxQueueSize)
	case c.MaxWait < 0:
		return fmt.Errorf("batch: max wait is %v and must not be negative", c.MaxWait)
	case c.WaitPolicy != Adaptive && c.WaitPolicy != Fixed:
		return fmt.Errorf("batch: no such wait policy: %d", c.WaitPolicy)
	case c.Runners < 1:
		return fmt.Errorf("batch: there are %d runners and must be 1 or more", c.Runners)
	case c.Shape == nil || c.Run == nil:
		return errors.New("batch: Shape and Run must be set")
	}
	return nil
}

// A Reply is an item's result and how it came about.
type Reply[R any] struct {
	Result    R
	Queue     time.Duration // from acceptance to the start of Run
	Run       time.Duration // of the batch, from the start of Run to its results
	BatchSize int
}

// A Batcher gathers items; see the package's contract. Its methods are safe for concurrent use.
type Batcher[K comparable, T, R any] struct {
	config Config[K, T, R]
	wake   chan struct{}  // capacity 1: the queue has changed since a runner last looked
	ended  sync.WaitGroup // of the runners and their finishers

	mu sync.Mutex
	// INVARIANT: a bucket in the map is not empty; its items are in state waiting and in order of acceptance.
	buckets map[K][]*item[T, R]
	// INVARIANT: the sum of the buckets' lengths, at most MaxQueueSize.
	waiting int
	// The Arrivals that have neither submitted nor left, oldest first.
	arrivals list.List
	accepted uint64 // items so far
	hurried  bool   // by StopWaiting: no batch waits for company
	closed   bool
}

type item[T, R any] struct {
	ctx      context.Context
	value    T
	accepted time.Time
	number   uint64 // in order of acceptance; times can be equal
	waiting  bool   // guarded by Batcher.mu: in a bucket
	// done receives exactly one outcome if the item leaves its bucket by the runner's hand, else none.
	// Capacity 1, so that the runner never waits for an item that was given up.
	done chan outcome[R]
}

type outcome[R any] struct {
	reply Reply[R]
	err   error
}

// New starts a Batcher. It returns after Setup has; the caller closes it.
func New[K comparable, T, R any](config Config[K, T, R]) (*Batcher[K, T, R], error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	b := &Batcher[K, T, R]{
		config:  config,
		wake:    make(chan struct{}, 1),
		buckets: make(map[K][]*item[T, R]),
	}
	for number := range config.Runners {
		ready := make(chan error, 1)
		b.ended.Add(1)
		go b.runner(number, ready)
		if err := <-ready; err != nil {
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

// Full tells whether Submit would be refused at this moment. It saves work on items that have no chance; Submit
// decides.
func (b *Batcher[K, T, R]) Full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting >= b.config.MaxQueueSize
}

// StopWaiting launches what waits for company, and from now on every batch without waiting for any. It is for the
// time when no new items will arrive, but some are still on their way.
func (b *Batcher[K, T, R]) StopWaiting() {
	b.mu.Lock()
	b.hurried = true
	b.mu.Unlock()
	b.signal()
}

// Close refuses new items, answers those accepted and returns when the runner has ended. Closing twice is
// allowed.
func (b *Batcher[K, T, R]) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.signal()
	b.ended.Wait()
}

// An Arrival is an item on its way: announced, not yet submitted. It is used by one goroutine.
type Arrival[K comparable, T, R any] struct {
	batcher *Batcher[K, T, R]
	at      time.Time
	element *list.Element // in batcher.arrivals; nil when it has submitted or left; guarded by batcher.mu
}

// Arrive announces an item, for which others may wait while it is prepared. The caller ends it by Submit or Leave.
func (b *Batcher[K, T, R]) Arrive() *Arrival[K, T, R] {
	a := &Arrival[K, T, R]{batcher: b, at: time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	a.element = b.arrivals.PushBack(a.at)
	return a
}

// end takes the arrival off the list and tells whether it was on it; the caller holds the lock.
func (a *Arrival[K, T, R]) end() bool {
	if a.element == nil {
		return false
	}
	a.batcher.arrivals.Remove(a.element)
	a.element = nil
	return true
}

// Leave says that no item will come. After Submit, or a second time, it does nothing.
func (a *Arrival[K, T, R]) Leave() {
	a.batcher.mu.Lock()
	left := a.end()
	a.batcher.mu.Unlock()
	if left {
		a.batcher.signal() // somebody may have waited for it
	}
}

// Submit hands the item in and waits for its result. The arrival ends in the same step, so nobody who waited for
// it is launched without it.
//
// Errors: ErrFull, ErrClosed, the context's cause, or what Run returned. After an error the item may still be in
// use by a running batch, so its memory must not be used again.
func (a *Arrival[K, T, R]) Submit(ctx context.Context, value T) (Reply[R], error) {
	b := a.batcher
	it := &item[T, R]{ctx: ctx, value: value, done: make(chan outcome[R], 1)}
	err := a.enqueue(it)
	b.signal()
	if err != nil {
		return Reply[R]{}, err
	}
	select {
	case out := <-it.done:
		return out.reply, out.err
	case <-ctx.Done():
		b.withdraw(it)
		return Reply[R]{}, context.Cause(ctx)
	}
}

func (a *Arrival[K, T, R]) enqueue(it *item[T, R]) error {
	b := a.batcher
	shape := b.config.Shape(it.value)
	b.mu.Lock()
	defer b.mu.Unlock()
	a.end()
	switch {
	case b.closed:
		return ErrClosed
	case it.ctx.Err() != nil:
		return context.Cause(it.ctx)
	case b.waiting >= b.config.MaxQueueSize:
		return ErrFull
	}
	it.accepted = time.Now()
	it.number = b.accepted
	b.accepted++
	it.waiting = true
	b.buckets[shape] = append(b.buckets[shape], it)
	b.waiting++
	return nil
}

// withdraw takes a waiting item out of the queue. It does nothing when the item has left it already.
func (b *Batcher[K, T, R]) withdraw(it *item[T, R]) {
	shape := b.config.Shape(it.value)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !it.waiting {
		return
	}
	bucket := b.buckets[shape]
	b.remove(shape, slices.Index(bucket, it), 1)
}

// remove takes n items out of a bucket; the caller holds the lock.
func (b *Batcher[K, T, R]) remove(shape K, at, n int) {
	for _, it := range b.buckets[shape][at : at+n] {
		it.waiting = false
	}
	b.waiting -= n
	rest := slices.Delete(b.buckets[shape], at, at+n)
	if len(rest) == 0 {
		delete(b.buckets, shape)
		return
	}
	b.buckets[shape] = rest
}

// signal makes the runner look at the queue again.
func (b *Batcher[K, T, R]) signal() {
	select {
	case b.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// runner is the goroutine that calls Setup and Run.
func (b *Batcher[K, T, R]) runner(number int, ready chan<- error) {
	// Load-bearing: the libraries behind Run keep state per thread. Never unlocked, so that the thread ends
	// with the goroutine and nobody inherits that state.
	runtime.LockOSThread()
	defer b.ended.Done()
	if b.config.Setup != nil {
		if err := b.config.Setup(number); err != nil {
			ready <- err
			return
		}
	}
	// No capacity: a batch is handed over when the one before has its results, so at most two are under way.
	started := make(chan *running[T, R])
	defer close(started)
	b.ended.Add(1)
	go b.finisher(started)
	ready <- nil
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		batch, wait := b.next()
		if batch != nil {
			if run := b.start(number, batch); run != nil {
				started <- run
			}
			continue
		}
		if wait == finished {
			b.signal() // the next runner, which sleeps, shall see it too
			return
		}
		var due <-chan time.Time // nil, and so never ready, when nothing waits
		if wait != idle {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-b.wake:
		case <-due:
		}
	}
}

// What next returns instead of a time to wait.
const (
	idle     time.Duration = -1 // the queue is empty
	finished time.Duration = -2 // and will stay so
)

// next takes the batch to launch now out of the queue, or says for how long nothing will be due.
func (b *Batcher[K, T, R]) next() ([]*item[T, R], time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for b.waiting > 0 {
		shape, due := b.firstDue(now)
		if wait := due.Sub(now); wait > 0 {
			return nil, wait
		}
		if taken := b.take(shape); len(taken) > 0 {
			if b.waiting > 0 {
				b.signal() // another runner may be free for the rest
			}
			return taken, 0
		}
	}
	if b.closed {
		return nil, finished
	}
	return nil, idle
}

// take removes the oldest items from a bucket, MaxBatchSize at most. Submit withdraws a cancelled item by itself,
// but perhaps not in time; such items are answered and left out. The caller holds the lock.
func (b *Batcher[K, T, R]) take(shape K) []*item[T, R] {
	var taken []*item[T, R]
	seen := 0
	for _, it := range b.buckets[shape] {
		if len(taken) == b.config.MaxBatchSize {
			break
		}
		seen++
		if it.ctx.Err() != nil {
			it.done <- outcome[R]{err: context.Cause(it.ctx)}
			continue
		}
		taken = append(taken, it)
	}
	b.remove(shape, 0, seen)
	return taken
}

// firstDue returns the bucket to launch first, and when: of those that are due now the one with the oldest item,
// else the one that will be due next. The caller holds the lock; at least one item waits.
func (b *Batcher[K, T, R]) firstDue(now time.Time) (shape K, due time.Time) {
	var oldest uint64
	found := false
	for candidate, bucket := range b.buckets {
		number := bucket[0].number
		at := b.due(bucket)
		if at.Before(now) {
			at = now
		}
		if !found || at.Before(due) || at.Equal(due) && number < oldest {
			shape, due, oldest, found = candidate, at, number, true
		}
	}
	return shape, due
}

// due is the time from which a bucket can be launched, as things stand; the caller holds the lock.
func (b *Batcher[K, T, R]) due(bucket []*item[T, R]) time.Time {
	oldest := bucket[0].accepted
	if len(bucket) >= b.config.MaxBatchSize || b.hurried || b.closed {
		return oldest
	}
	due := oldest.Add(b.config.MaxWait)
	if b.config.WaitPolicy == Fixed {
		return due
	}
	// An arrival counts as company for MaxWait, so a client that sends a byte a second delays nobody for longer.
	// The newest one counts longest.
	newest := b.arrivals.Back()
	if newest == nil {
		return oldest
	}
	if until := newest.Value.(time.Time).Add(b.config.MaxWait); until.Before(due) {
		return until
	}
	return due
}

// running is a batch whose work has been started.
type running[T, R any] struct {
	batch  []*item[T, R]
	start  time.Time
	finish func() ([]R, error)
}

// start calls Run on a batch. Nil: it failed, and its items have been answered.
func (b *Batcher[K, T, R]) start(runner int, batch []*item[T, R]) *running[T, R] {
	values := make([]T, len(batch))
	for i, it := range batch {
		values[i] = it.value
	}
	run := &running[T, R]{batch: batch, start: time.Now()}
	finish, err := protect(func() (func() ([]R, error), error) { return b.config.Run(runner, values) })
	if err != nil {
		run.answer(nil, err)
		return nil
	}
	run.finish = finish
	return run
}

// finisher is the goroutine that waits for the results of one runner's batches.
func (b *Batcher[K, T, R]) finisher(started <-chan *running[T, R]) {
	defer b.ended.Done()
	for run := range started {
		run.answer(protect(run.finish))
	}
}

// answer gives each item its result, or all of them the error.
func (r *running[T, R]) answer(results []R, err error) {
	took := time.Since(r.start)
	if err == nil && len(results) != len(r.batch) {
		err = fmt.Errorf("batch: run returned %d results for %d items", len(results), len(r.batch))
	}
	for i, it := range r.batch {
		out := outcome[R]{err: err}
		if err == nil {
			out.reply = Reply[R]{Result: results[i], Queue: r.start.Sub(it.accepted), Run: took, BatchSize: len(r.batch)}
		}
		it.done <- out
	}
}

// A PanicError is Submit's answer to the items of a batch in which Run panicked.
type PanicError struct {
	Value any
	Stack []byte // of the runner
}

func (e *PanicError) Error() string { return fmt.Sprintf("batch: run panicked: %v", e.Value) }

// protect turns a panic into an error.
func protect[V any](call func() (V, error)) (value V, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return call()
}
