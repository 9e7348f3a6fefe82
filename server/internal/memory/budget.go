package memory

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// A Budget is a number of bytes that concurrent work may use together. Those that wait get their bytes in the order of
// their calls, so a large piece of work isn't overtaken for ever by small ones. It is safe for concurrent use. A nil Budget
// has no limit.
type Budget struct {
	size int64
	free *semaphore.Weighted
	used atomic.Int64
}

// NewBudget returns a budget of size bytes.
func NewBudget(size int64) *Budget { return &Budget{size: size, free: semaphore.NewWeighted(size)} }

// Size is the number of bytes of the budget.
func (b *Budget) Size() int64 { return b.size }

// Used is how many bytes are in use.
func (b *Budget) Used() int64 { return b.used.Load() }

// A TooLargeError is returned for work that needs more than the whole budget.
type TooLargeError struct{ Need, Size int64 } // bytes

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("memory: %d bytes are more than the budget of %d bytes", e.Need, e.Size)
}

// A Reservation is a part of a budget that is in use. The zero value is empty. It is not safe for concurrent use.
type Reservation struct {
	budget *Budget
	bytes  int64
}

// Reserve waits until bytes are free and returns them. The caller must Release them. Errors: *TooLargeError at once; the
// cause of ctx.
func (b *Budget) Reserve(ctx context.Context, bytes int64) (Reservation, error) {
	if b == nil {
		return Reservation{}, nil
	}
	if bytes > b.size {
		return Reservation{}, &TooLargeError{bytes, b.size}
	}
	if b.free.Acquire(ctx, bytes) != nil {
		return Reservation{}, context.Cause(ctx)
	}
	b.used.Add(bytes)
	return Reservation{b, bytes}, nil
}

// Grow adds bytes of a budget to the reservation if they are free now, and reports whether they were. The reservation must
// be empty or of the same budget.
func (r *Reservation) Grow(b *Budget, bytes int64) bool {
	if b == nil {
		return true
	}
	if !b.free.TryAcquire(bytes) {
		return false
	}
	b.used.Add(bytes)
	r.budget = b
	r.bytes += bytes
	return true
}

// Shrink gives back all but bytes of the reservation. It does nothing if the reservation has no more than that.
func (r *Reservation) Shrink(bytes int64) {
	if r.bytes > bytes {
		r.budget.used.Add(bytes - r.bytes)
		r.budget.free.Release(r.bytes - bytes)
		r.bytes = bytes
	}
}

// Release gives back the reservation. After that it is empty.
func (r *Reservation) Release() { r.Shrink(0) }
