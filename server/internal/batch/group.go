package batch

import (
	"context"
	"time"
)

// SubmitAll queues items that belong together, in one step, and returns a function that waits for their results, which are
// in the order of the items. It may be called again for further items: all of them share the Arrival's place in the queue,
// which only Leave gives back. So a large piece of work counts as one item where places are short, and the caller makes it
// take turns with others by the number of items that it submits at a time.
//
// Errors of both: those of Submit. After an error of the returned function, or of ctx, the items that still wait are
// withdrawn, and a running batch may still use the others. The returned function must be called once.
func (a *Arrival[K, T, R]) SubmitAll(ctx context.Context, values []T) (wait func() ([]Reply[R], error), err error) {
	b := a.batcher
	items := make([]*item[T, R], len(values))
	for i, value := range values {
		items[i] = &item[T, R]{ctx: ctx, value: value, sharesPlace: true, done: make(chan outcome[R], 1)}
	}
	err = a.enqueueAll(ctx, items)
	b.signal()
	if err != nil {
		return nil, err
	}
	return func() ([]Reply[R], error) {
		replies := make([]Reply[R], len(items))
		for i, it := range items {
			var err error
			select {
			case out := <-it.done:
				replies[i], err = out.reply, out.err
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			if err != nil {
				for _, left := range items[i:] {
					b.withdraw(left)
				}
				return nil, err
			}
		}
		return replies, nil
	}, nil
}

func (a *Arrival[K, T, R]) enqueueAll(ctx context.Context, items []*item[T, R]) error {
	b := a.batcher
	b.mu.Lock()
	defer b.mu.Unlock()
	a.forgetLocked()
	switch {
	case b.hung != nil:
		return b.hung
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !a.shared:
		if b.closing {
			return ErrClosed
		}
		if err := a.admitLocked(ctx); err != nil {
			return err
		}
		a.shared = true
		b.shared++
	}
	for _, it := range items {
		b.arriveLocked()
		b.unplaced++
		b.queueLocked(it)
	}
	return nil
}

// queueLocked puts an item into the bucket of its shape.
func (b *Batcher[K, T, R]) queueLocked(it *item[T, R]) {
	shape := b.config.Shape(it.value)
	it.accepted = time.Now()
	it.number = b.accepted
	b.accepted++
	it.waiting = true
	b.buckets[shape] = append(b.buckets[shape], it)
	b.waiting++
}

// aheadLocked returns the number of items that leave the queue before a new one, as far as is known: those that wait or have
// been admitted. An Arrival whose items share its place counts as many as wait.
func (b *Batcher[K, T, R]) aheadLocked() int { return b.places - b.shared + b.unplaced }

// countShared returns how many of the items share the place of their Arrival.
func countShared[T, R any](items []*item[T, R]) int {
	count := 0
	for _, it := range items {
		if it.sharesPlace {
			count++
		}
	}
	return count
}
