// Package batch gathers single items into batches for a function that is faster on several items at once.
//
// # Contract
//
//   - Order: a batch holds items of one shape only. Items of one shape enter batches in the order in which they were
//     accepted, and results[i] goes to the item that was items[i].
//   - Replies: every Submit returns exactly once, with the item's result or with an error.
//   - Waiting: a full batch (MaxBatchSize items) is due at once. An incomplete batch is due when its oldest item has
//     waited for MaxWait, however many items follow that one. Without FixedWait it is due earlier, as soon as no Arrival
//     is expected by then. Expect says when an Arrival is expected, and until when that holds. One that never called
//     Expect, that is late, has submitted or has left isn't expected.
//   - Launching: a free runner launches the due batch with the oldest item, so no shape starves.
//   - Places: at most MaxQueueSize items have a place in the queue. An item gets its place by Admit, before it is
//     prepared, or else by Submit, and gives it back when its batch starts, when it is cancelled, or by Leave. So the work
//     of preparing an item isn't lost to a full queue.
//   - Refusal: Admit and Submit never block for a place. On a full queue they return a *BusyError of ErrFull. Admit also
//     refuses an item whose predicted result would come after its context's deadline, with a *BusyError of ErrLate. It
//     never does so while no other item has a place.
//   - Cancellation: an item whose context is done never enters a batch. Its Submit returns the context's cause at once,
//     and its place in the queue is free. If its batch is already running, Submit returns the cause at once as well, and
//     the result is dropped.
//   - Failure: an error or a panic of Run, or of the function that Run returns, reaches all items of that batch and no
//     others, as a *RunError. ErrFull, ErrClosed and the context's cause are never wrapped in one.
//   - Hanging: with Watch, a batch that reaches its time limit ends the batcher: its items, those that wait and those that
//     come get a *HungError, which is never wrapped.
//   - Groups: items of SubmitAll are queued together and share one place, that of their Arrival. They enter batches as
//     others do, so that who submits a few at a time takes turns with others.
//   - Close: the batches of the accepted items are due at once, and Close returns when they have run, or when one hangs.
//     Later calls of Submit return ErrClosed. An Arrival that has called SubmitAll may go on until it leaves, for which
//     Close waits. After StopWaiting, too, every batch is due at once, but new items are accepted.
//
// # Implementation
//
// A runner is a goroutine, locked to its operating system thread, that takes batches from the queue and calls Run. The
// queue is guarded by one mutex and holds a first-in-first-out bucket for each shape. Every change of the queue signals
// the runners, and one of them decides what to launch and how long to sleep. Each runner has a completer, a goroutine
// that waits for a batch's results and hands them out while the runner starts the next batch.
//
// Two simpler designs were rejected. A timer for each item, as the Sanic demo has, fires on queues that have been emptied
// since. A channel as the queue can't give a cancelled item back.
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// ErrFull is the reason of a refusal while MaxQueueSize items have a place in the queue.
var ErrFull = errors.New("batch: the queue is full")

// ErrLate is the reason of a refusal if the item's result would come after its deadline.
var ErrLate = errors.New("batch: the queue is longer than the item's deadline allows")

// A BusyError is the refusal of an item that may be accepted later.
type BusyError struct {
	Reason error // ErrFull or ErrLate
	// Drain is how long the queue would take to drain at the present rate; 0: unknown.
	Drain time.Duration
}

func (e *BusyError) Error() string { return e.Reason.Error() }

func (e *BusyError) Unwrap() error { return e.Reason }

// ErrClosed is returned by Admit and Submit after Close.
var ErrClosed = errors.New("batch: closed")

// Config configures a Batcher. T is the type of an item, R of its result, K of a shape.
type Config[K comparable, T, R any] struct {
	MaxBatchSize int           // maximum number of items in a batch; 1 or more
	MaxQueueSize int           // maximum number of items with a place in the queue; 1 or more
	MaxWait      time.Duration // maximum batching delay of an item; 0: none

	// FixedWait makes every incomplete batch wait the full MaxWait, as the Sanic demo does; otherwise a batch waits only
	// for Arrivals that are expected within MaxWait.
	FixedWait bool

	// Runners is the number of batches that run at the same time; 1 or more.
	Runners int

	// Shape returns an item's shape. Only items with equal shapes share a batch.
	Shape func(T) K

	// Run starts the work on a batch of 1 to MaxBatchSize items. It returns a function that waits for the results and
	// returns them, one for each item, in the order of the items. Run may do all of the work itself.
	//
	// Runners are numbered from 0. The calls of Run for one runner come one after the other, on one operating system
	// thread. The function that Run returns is called on another thread. Run may be called for the next batch meanwhile,
	// but it isn't called for the batch after that one before the function has returned. After that, neither may keep
	// the slice or the items.
	Run func(runner int, items []T) (complete func() ([]R, error), err error)

	// Setup, if set, binds state to a runner's thread. It is called once per runner, on the runner's thread, before the
	// runner's first batch, for one runner after the other. Its error is New's.
	Setup func(runner int) error

	// Observe, if set, is called for each batch when it is done, with the number of its items and what will be Reply.Run.
	Observe func(items int, took time.Duration)

	// Rest, if set, is called on a runner's thread when the runner has had nothing to do for restAfter, once until it has
	// something to do again. It may free what Run keeps for the next batch.
	Rest func(runner int)
}

// restAfter is how long a runner is idle before Rest. It is long beside the time between batches under load, and beside the
// 0.1 ms in which Run may start its threads again.
const restAfter = 20 * time.Millisecond

func (c *Config[K, T, R]) validate() error {
	switch {
	case c.MaxBatchSize < 1:
		return fmt.Errorf("batch: max batch size is %d; use 1 or more", c.MaxBatchSize)
	case c.MaxQueueSize < 1:
		return fmt.Errorf("batch: max queue size is %d; use 1 or more", c.MaxQueueSize)
	case c.MaxWait < 0:
		return fmt.Errorf("batch: max wait is %v; use 0 or more", c.MaxWait)
	case c.Runners < 1:
		return fmt.Errorf("batch: number of runners is %d; use 1 or more", c.Runners)
	case c.Shape == nil || c.Run == nil:
		return errors.New("batch: Shape and Run must be set")
	}
	return nil
}

// A Reply is an item's result, with the times that it took.
type Reply[R any] struct {
	Result    R
	Queue     time.Duration // from the item's acceptance to the start of Run
	Run       time.Duration // from the start of Run to the batch's results
	BatchSize int           // number of items in the batch
}

// A Batcher gathers items into batches, by the contract above. Its methods are safe for concurrent use.
type Batcher[K comparable, T, R any] struct {
	config Config[K, T, R]
	wake   chan struct{}  // capacity 1: the queue has changed since a runner last checked it
	calls  []chan func()  // of OnEachRunner, for each runner
	ended  sync.WaitGroup // the runners and their completers

	mu sync.Mutex
	// INVARIANT: a bucket in the map is not empty; its items are waiting, and sorted by number.
	buckets map[K][]*item[T, R]
	// INVARIANT: the sum of the buckets' lengths.
	waiting int
	// INVARIANT: waiting minus unplaced, plus the number of admitted Arrivals, at most MaxQueueSize.
	places int
	// INVARIANT: the number of waiting items that share the place of their Arrival.
	unplaced int
	// INVARIANT: the number of admitted Arrivals whose items share their place.
	shared int
	// The Arrivals with an expectation, in no order. Late ones may still be in it.
	expected []*Arrival[K, T, R]
	drain    drain
	accepted uint64 // number of items accepted so far
	flushing bool   // set by StopWaiting: every batch is due at once
	closing  bool   // set by Close: nothing is accepted

	running []*running[T, R] // the batches that have been started and not answered, at most 2 a runner

	// The fields of the watchdog.
	limit  func([]T) time.Duration // nil: no limit
	hung   *HungError              // set when a batch hangs
	hungUp chan struct{}           // closed when hung is set
	closed chan struct{}           // closed when the runners have ended
}

type item[T, R any] struct {
	ctx      context.Context
	value    T
	accepted time.Time
	number   uint64 // position in the order of acceptance, since times can be equal
	waiting  bool   // the item is in a bucket; guarded by Batcher.mu
	// sharesPlace says that the item is one of SubmitAll and has no place of its own.
	sharesPlace bool
	// done receives exactly one outcome if a runner takes the item out of its bucket, else none. Its capacity is 1, so
	// that neither runner nor completer blocks on an item whose Submit has returned.
	done chan outcome[R]
}

type outcome[R any] struct {
	reply Reply[R]
	err   error
}

// New starts a Batcher and returns when its runners are set up. The caller must Close it.
func New[K comparable, T, R any](config Config[K, T, R]) (*Batcher[K, T, R], error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	b := &Batcher[K, T, R]{
		config:  config,
		wake:    make(chan struct{}, 1),
		buckets: make(map[K][]*item[T, R]),
		hungUp:  make(chan struct{}),
		closed:  make(chan struct{}),
	}
	for range config.Runners {
		b.calls = append(b.calls, make(chan func()))
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

// StopWaiting makes every batch due at once, now and later. Items are still accepted: a server that shuts down calls it
// when requests that are being received or decoded are the last ones.
func (b *Batcher[K, T, R]) StopWaiting() {
	b.mu.Lock()
	b.flushing = true
	b.mu.Unlock()
	b.signal()
}

// Close refuses new items, runs the batches of those that were accepted, and returns when the runners have ended, or when
// a batch hangs: then Healthy returns a *HungError, and Run may still be using the items. It may be called again.
func (b *Batcher[K, T, R]) Close() {
	b.mu.Lock()
	first := !b.closing
	b.closing = true
	b.mu.Unlock()
	b.signal()
	if first {
		go func() {
			b.ended.Wait()
			close(b.closed)
		}()
	}
	select {
	case <-b.closed:
	case <-b.hungUp:
	}
}

// Waiting returns the number of items that have a place in the queue.
func (b *Batcher[K, T, R]) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.places
}

// Admissible returns the error with which Admit would refuse an item at this moment, or nil. It lets a caller refuse an
// item before receiving it.
func (b *Batcher[K, T, R]) Admissible(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusalLocked(ctx)
}

// refusalLocked returns why an item can't have a place; nil: it can.
func (b *Batcher[K, T, R]) refusalLocked(ctx context.Context) error {
	switch deadline, limited := ctx.Deadline(); {
	case b.hung != nil:
		return b.hung
	case b.closing:
		return ErrClosed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case b.places >= b.config.MaxQueueSize:
		return &BusyError{ErrFull, b.drain.of(b.aheadLocked())}
	case limited && b.aheadLocked() > 0 && b.drain.of(b.aheadLocked())+b.drain.run > time.Until(deadline):
		return &BusyError{ErrLate, b.drain.of(b.aheadLocked())}
	}
	return nil
}

// An Arrival is an item that is being received or prepared. It must not be used by two goroutines at the same time.
type Arrival[K comparable, T, R any] struct {
	batcher *Batcher[K, T, R]
	// The fields below are guarded by batcher.mu.
	admitted bool
	shared   bool      // by the items of SubmitAll; INVARIANT: admitted
	at       time.Time // when the item is expected; zero: it isn't in batcher.expected
	until    time.Time // until when that holds; not after at
	index    int       // in batcher.expected
}

// Arrive announces an item. The caller must call Submit or Leave.
func (b *Batcher[K, T, R]) Arrive() *Arrival[K, T, R] { return &Arrival[K, T, R]{batcher: b} }

// Expect says when the item is expected to be submitted, and until when that holds unless Expect is called again. An
// incomplete batch waits for the item if its oldest item may wait that long, but not after until.
func (a *Arrival[K, T, R]) Expect(at, until time.Time) {
	b := a.batcher
	if b.config.FixedWait || b.config.MaxBatchSize == 1 {
		return // no batch waits for it
	}
	if at.Before(until) {
		until = at
	}
	b.mu.Lock()
	// A batch may wait for what isn't expected in time any more. An expectation that only holds longer needs no signal: the
	// runner looks again when the one before has ended.
	wake := b.waiting > 0 && !a.at.IsZero() && (at.After(a.at) || until.Before(a.until))
	if a.at.IsZero() {
		a.index = len(b.expected)
		b.expected = append(b.expected, a)
	}
	a.at, a.until = at, until
	b.mu.Unlock()
	if wake {
		b.signal()
	}
}

// forgetLocked ends the expectation and reports whether there was one.
func (a *Arrival[K, T, R]) forgetLocked() bool {
	if a.at.IsZero() {
		return false
	}
	b := a.batcher
	last := len(b.expected) - 1
	b.expected[a.index] = b.expected[last]
	b.expected[a.index].index = a.index
	b.expected[last] = nil
	b.expected = b.expected[:last]
	a.at = time.Time{}
	return true
}

// Admit gives the item its place in the queue. Errors: *BusyError, ErrClosed, or the context's cause.
func (a *Arrival[K, T, R]) Admit(ctx context.Context) error {
	b := a.batcher
	b.mu.Lock()
	defer b.mu.Unlock()
	return a.admitLocked(ctx)
}

func (a *Arrival[K, T, R]) admitLocked(ctx context.Context) error {
	if a.admitted {
		return nil
	}
	if err := a.batcher.refusalLocked(ctx); err != nil {
		return err
	}
	a.admitted = true
	a.batcher.takePlaceLocked()
	return nil
}

// takePlaceLocked counts a place, which is free.
func (b *Batcher[K, T, R]) takePlaceLocked() {
	b.arriveLocked()
	b.places++
}

// arriveLocked records that an item comes.
func (b *Batcher[K, T, R]) arriveLocked() {
	if b.aheadLocked() == 0 {
		b.drain.begin(len(b.running) >= b.config.Runners)
	}
}

// Leave withdraws the announcement and gives back the place. After Submit or an earlier Leave it does nothing.
func (a *Arrival[K, T, R]) Leave() {
	b := a.batcher
	b.mu.Lock()
	wake := a.forgetLocked() && b.waiting > 0 // a batch may have been waiting for it
	if a.admitted {
		a.admitted = false
		b.places--
	}
	if a.shared {
		a.shared = false
		b.shared--
		wake = wake || b.closing // a runner may end
	}
	b.mu.Unlock()
	if wake {
		b.signal()
	}
}

// Submit queues the item and waits for its result. The announcement ends in the same step, so a batch that waited for the
// item isn't launched without it. It must not be called after SubmitAll.
//
// Errors: *BusyError, unless the item was admitted; ErrClosed; *HungError; the context's cause; or a *RunError. After an
// error a running batch may still use the item, so its memory must not be reused.
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
	b.mu.Lock()
	defer b.mu.Unlock()
	a.forgetLocked()
	if a.admitted {
		a.admitted = false
		b.places--
	}
	switch {
	case b.hung != nil:
		return b.hung
	case b.closing:
		return ErrClosed
	case it.ctx.Err() != nil:
		return context.Cause(it.ctx)
	case b.places >= b.config.MaxQueueSize:
		return &BusyError{ErrFull, b.drain.of(b.aheadLocked())}
	}
	b.takePlaceLocked()
	b.queueLocked(it)
	return nil
}

// withdraw removes an item from the queue if it is still there.
func (b *Batcher[K, T, R]) withdraw(it *item[T, R]) {
	shape := b.config.Shape(it.value)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !it.waiting {
		return
	}
	bucket := b.buckets[shape]
	b.removeLocked(shape, slices.Index(bucket, it), 1)
}

// removeLocked removes n items from a bucket, beginning at index at.
func (b *Batcher[K, T, R]) removeLocked(shape K, at, n int) {
	items := b.buckets[shape][at : at+n]
	for _, it := range items {
		it.waiting = false
	}
	shared := countShared(items)
	b.waiting -= n
	b.unplaced -= shared
	b.places -= n - shared
	rest := slices.Delete(b.buckets[shape], at, at+n)
	if len(rest) == 0 {
		delete(b.buckets, shape)
		return
	}
	b.buckets[shape] = rest
}

// signal makes a runner check the queue again.
func (b *Batcher[K, T, R]) signal() {
	select {
	case b.wake <- struct{}{}:
	default: // a signal is pending already
	}
}

// runner is the goroutine that calls Setup and Run.
func (b *Batcher[K, T, R]) runner(number int, ready chan<- error) {
	// The lock is load-bearing: the libraries behind Run keep state per thread. It is never released, so that the thread
	// ends with the goroutine and no other goroutine inherits that state.
	runtime.LockOSThread()
	defer b.ended.Done()
	if b.config.Setup != nil {
		if err := b.config.Setup(number); err != nil {
			ready <- err
			return
		}
	}
	// The channel has no capacity: the completer accepts a batch when it has completed the one before, so at most two
	// batches of a runner are under way.
	started := make(chan *running[T, R])
	defer close(started)
	b.ended.Add(1)
	go b.completer(started)
	ready <- nil
	timer := time.NewTimer(0)
	defer timer.Stop()
	worked := true // since the last rest
	for {
		batch, wait := b.next()
		if batch != nil {
			worked = true
			if run := b.start(number, batch); run != nil {
				started <- run
			}
			continue
		}
		if wait == finished {
			b.signal() // wake the next runner, so that it ends too
			return
		}
		var due, rest <-chan time.Time // nil, and so never ready, while there is nothing to wait for
		switch {
		case wait != idle:
			timer.Reset(wait)
			due = timer.C
		case worked && b.config.Rest != nil:
			timer.Reset(restAfter)
			rest = timer.C
		}
		select {
		case <-b.wake:
		case <-due:
		case <-rest:
			b.config.Rest(number)
			worked = false
		case call := <-b.calls[number]:
			call()
			worked = true
		}
	}
}

// OnEachRunner calls f once on each runner's thread, one runner after the other, and returns the first error. Each call
// waits until its runner has no batch to start, so it is for the time before the first item. A panic of f is returned as a
// *PanicError. It must not be called after Close.
func (b *Batcher[K, T, R]) OnEachRunner(f func(runner int) error) error {
	for number, calls := range b.calls {
		done := make(chan error)
		calls <- func() {
			_, err := recoverPanic(func() (struct{}, error) { return struct{}{}, f(number) })
			done <- err
		}
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

// These are returned by next in place of a time to wait.
const (
	idle     time.Duration = -1 // the queue is empty
	finished time.Duration = -2 // the queue is empty, and closed or hung
)

// next removes the batch to launch now from the queue. If none is due, it returns the time until one will be.
func (b *Batcher[K, T, R]) next() ([]*item[T, R], time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for b.waiting > 0 {
		shape, due := b.firstDueLocked(now)
		if wait := due.Sub(now); wait > 0 {
			return nil, wait
		}
		if taken := b.takeLocked(shape); len(taken) > 0 {
			if b.waiting > 0 {
				b.signal() // another runner may be free for another batch
			}
			return taken, 0
		}
	}
	if b.closing && b.shared == 0 || b.hung != nil {
		return nil, finished
	}
	return nil, idle
}

// takeLocked removes the oldest items, at most MaxBatchSize, from a bucket and returns them. Cancelled items get
// their error and are left out: Submit withdraws a cancelled item, but may come later than the runner.
func (b *Batcher[K, T, R]) takeLocked(shape K) []*item[T, R] {
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
	b.removeLocked(shape, 0, seen)
	if len(taken) > 0 {
		b.drain.launched(len(taken), len(taken) == b.config.MaxBatchSize, b.aheadLocked())
	}
	return taken
}

// firstDueLocked returns the bucket to launch first and the time from which it is due. That is the bucket with the oldest
// item among those that are due now; if none is, it is the one that will be due next. At least one item must be waiting.
func (b *Batcher[K, T, R]) firstDueLocked(now time.Time) (shape K, due time.Time) {
	var oldest uint64
	found := false
	for candidate, bucket := range b.buckets {
		number := bucket[0].number
		at := b.dueLocked(bucket)
		if at.Before(now) {
			at = now
		}
		if !found || at.Before(due) || at.Equal(due) && number < oldest {
			shape, due, oldest, found = candidate, at, number, true
		}
	}
	return shape, due
}

// dueLocked returns the time from which a bucket is due, unless the queue or the arrivals change before.
func (b *Batcher[K, T, R]) dueLocked(bucket []*item[T, R]) time.Time {
	oldest := bucket[0].accepted
	if len(bucket) >= b.config.MaxBatchSize || b.flushing || b.closing {
		return oldest
	}
	limit := oldest.Add(b.config.MaxWait)
	if b.config.FixedWait {
		return limit
	}
	due := oldest
	for _, a := range b.expected {
		if a.until.After(due) && !a.at.After(limit) {
			due = a.until
		}
	}
	return due
}

// running is a batch whose work has been started.
type running[T, R any] struct {
	batch    []*item[T, R]
	runner   int
	start    time.Time
	complete func() ([]R, error)
	limit    time.Duration // with Watch
	watched  time.Duration // how long the watchdog has seen it run; guarded by Batcher.mu
}

// start calls Run on a batch. If that fails, it delivers the error and returns nil.
func (b *Batcher[K, T, R]) start(runner int, batch []*item[T, R]) *running[T, R] {
	values := make([]T, len(batch))
	for i, it := range batch {
		values[i] = it.value
	}
	run := &running[T, R]{batch: batch, runner: runner, start: time.Now()}
	b.begin(run, values)
	complete, err := recoverPanic(func() (func() ([]R, error), error) { return b.config.Run(runner, values) })
	if err != nil {
		b.deliver(run, nil, err)
		return nil
	}
	run.complete = complete
	return run
}

// completer is the goroutine that waits for the results of one runner's batches.
func (b *Batcher[K, T, R]) completer(started <-chan *running[T, R]) {
	defer b.ended.Done()
	for run := range started {
		results, err := recoverPanic(run.complete)
		b.deliver(run, results, err)
	}
}

// deliver sends each item its result, or all items the error.
func (b *Batcher[K, T, R]) deliver(run *running[T, R], results []R, err error) {
	took := time.Since(run.start)
	if !b.end(run, took) {
		return
	}
	if b.config.Observe != nil {
		b.config.Observe(len(run.batch), took)
	}
	if err == nil && len(results) != len(run.batch) {
		err = fmt.Errorf("%d results for %d items", len(results), len(run.batch))
	}
	if err != nil {
		err = &RunError{err}
	}
	for i, it := range run.batch {
		out := outcome[R]{err: err}
		if err == nil {
			out.reply = Reply[R]{Result: results[i], Queue: run.start.Sub(it.accepted), Run: took, BatchSize: len(run.batch)}
		}
		it.done <- out
	}
}

// A RunError is returned by Submit for the items of a batch that failed.
type RunError struct {
	// Err is the error of Run or of the function that Run returned, or a *PanicError. It is an error as well if the
	// number of results isn't that of the items.
	Err error
}

func (e *RunError) Error() string { return "batch: run: " + e.Err.Error() }

func (e *RunError) Unwrap() error { return e.Err }

// A PanicError is the error of a batch in which Run, or the function that Run returned, panicked.
type PanicError struct {
	Value any    // the argument of panic
	Stack []byte // the stack of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("panicked: %v", e.Value) }

// recoverPanic turns a panic of call into a *PanicError.
func recoverPanic[V any](call func() (V, error)) (value V, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return call()
}
