package batch

import (
	"fmt"
	"slices"
	"time"
)

// A HungError is returned by Submit when a batch has reached its time limit; see Watch.
type HungError struct {
	BatchSize int           // items in the batch that hangs
	Elapsed   time.Duration // since its Run began
}

func (e *HungError) Error() string {
	return fmt.Sprintf("batch: a batch of %d hangs: it has been running for %v", e.BatchSize, e.Elapsed.Round(time.Millisecond))
}

const (
	// slowPart is the part of its limit after which a batch makes the Batcher unhealthy, until the batch ends.
	slowPart = 6
	// The watchdog looks at the running batches at least every longestLook, and at most every shortestLook.
	longestLook  = time.Second
	shortestLook = time.Millisecond
)

// Watch makes the Batcher notice batches that never end. limit returns how long a batch may take, from the start of Run to
// its results. Watch must be called at most once, before the first item.
//
// When a batch reaches its limit, which is noticed at most a second later, the Batcher has hung, for good: the items of
// that runner's batches and all waiting ones get a *HungError, as do later calls of Submit, and Close no longer waits for
// the runners. Batches of other runners finish.
//
// A time in which the process was stopped doesn't count.
func (b *Batcher[K, T, R]) Watch(limit func(items []T) time.Duration) {
	b.mu.Lock()
	b.limit = limit
	b.mu.Unlock()
	go b.watch()
}

// Healthy returns nil, or why the batcher doesn't make progress: a *HungError after it has hung, or else an error while a
// batch has been running for more than a sixth of its limit. Without Watch it always returns nil.
func (b *Batcher[K, T, R]) Healthy() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hung != nil {
		return b.hung
	}
	for _, run := range b.running {
		if run.watched > run.limit/slowPart {
			return fmt.Errorf("batch: a batch of %d has been running for %v and may hang", len(run.batch), time.Since(run.start).Round(time.Millisecond))
		}
	}
	return nil
}

// watch looks at the running batches until Close has ended or a batch hangs.
func (b *Batcher[K, T, R]) watch() {
	last, wait := time.Now(), longestLook
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-b.closed:
			return
		}
		now := time.Now()
		// After the process was stopped (SIGSTOP, a virtual machine) much more time has passed than this goroutine slept.
		if wait = b.look(now, min(now.Sub(last), 2*wait)); wait == 0 {
			return
		}
		last = now
		timer.Reset(wait)
	}
}

// look adds the time that has passed since the last look to the running batches. It returns the time until the next look,
// or 0 if a batch hangs.
func (b *Batcher[K, T, R]) look(now time.Time, passed time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := longestLook
	for _, run := range b.running {
		run.watched += min(passed, now.Sub(run.start))
		if run.watched >= run.limit {
			b.hangLocked(run)
			return 0
		}
		wait = min(wait, max(run.limit-run.watched, shortestLook))
	}
	return wait
}

// hangLocked answers everything that will get no result.
func (b *Batcher[K, T, R]) hangLocked(hung *running[T, R]) {
	b.hung = &HungError{BatchSize: len(hung.batch), Elapsed: time.Since(hung.start)}
	close(b.hungUp)
	fail := func(items []*item[T, R]) {
		for _, it := range items {
			it.waiting = false
			it.done <- outcome[R]{err: b.hung}
		}
	}
	b.running = slices.DeleteFunc(b.running, func(run *running[T, R]) bool {
		if run.runner != hung.runner {
			return false
		}
		fail(run.batch)
		return true
	})
	for _, bucket := range b.buckets {
		fail(bucket)
	}
	clear(b.buckets)
	b.places -= b.waiting - b.unplaced
	b.waiting, b.unplaced = 0, 0
	b.signal() // the other runners end
}

// begin registers a batch that is about to run.
func (b *Batcher[K, T, R]) begin(run *running[T, R], values []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit != nil {
		run.limit = b.limit(values)
	}
	b.running = append(b.running, run)
}

// end removes a batch whose outcome is known, and how long it took. It returns false if the watchdog has answered the
// batch's items.
func (b *Batcher[K, T, R]) end(run *running[T, R], took time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drain.ran(took)
	at := slices.Index(b.running, run)
	if at < 0 {
		return false
	}
	b.running = slices.Delete(b.running, at, at+1)
	return true
}
