package memory

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimitIsPlausible(t *testing.T) {
	if limit := Limit(); limit < 64<<20 || limit == math.MaxInt64 {
		t.Errorf("got %d bytes", limit)
	}
}

func TestLimitGo(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	if err := LimitGo(8 << 30); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetMemoryLimit(-1); got != 4<<30 {
		t.Errorf("got %d bytes", got)
	}
	t.Setenv("GOMEMLIMIT", "1GiB") // the runtime has read it at its start; it must not be overridden
	debug.SetMemoryLimit(1 << 30)
	if err := LimitGo(8 << 30); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetMemoryLimit(-1); got != 1<<30 {
		t.Errorf("with GOMEMLIMIT: got %d bytes", got)
	}
}

// The second request is larger than what is free, and the third one isn't; it still comes third.
func TestReservationsComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		first, err := b.Reserve(t.Context(), 60)
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan int64, 2)
		for _, bytes := range []int64{70, 40} {
			go func() {
				r, err := b.Reserve(t.Context(), bytes)
				if err != nil {
					t.Error(err)
				}
				order <- bytes
				r.Release()
			}()
			synctest.Wait()
		}
		first.Shrink(40)
		first.Shrink(50) // does nothing
		synctest.Wait()
		if len(order) > 0 {
			t.Errorf("%d bytes came before the rest was free", <-order)
		}
		first.Release()
		first.Release()
		if a, b := <-order, <-order; a != 70 || b != 40 {
			t.Errorf("got %d, then %d", a, b)
		}
		if r, err := b.Reserve(t.Context(), 100); err != nil {
			t.Errorf("after all was released: %v", err)
		} else {
			r.Release()
		}
	})
}

func TestReserveErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		_, err := b.Reserve(t.Context(), 101)
		var large *TooLargeError
		if !errors.As(err, &large) || large.Need != 101 || large.Size != 100 {
			t.Errorf("more than there is: %v", err)
		}
		held, err := b.Reserve(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		left := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(left) })
		if _, err := b.Reserve(ctx, 1); !errors.Is(err, left) {
			t.Errorf("cancelled: %v", err)
		}
		held.Release()
		var none *Budget
		if _, err := none.Reserve(t.Context(), 1<<60); err != nil {
			t.Errorf("no budget: %v", err)
		}
	})
}

func TestGrowNeverWaits(t *testing.T) {
	b := NewBudget(100)
	var r Reservation
	for _, step := range []struct {
		bytes int64
		want  bool
	}{{60, true}, {41, false}, {40, true}, {1, false}} {
		if got := r.Grow(b, step.bytes); got != step.want {
			t.Errorf("%d more: %v", step.bytes, got)
		}
	}
	r.Release()
	if !r.Grow(b, 100) {
		t.Error("not all is free after Release")
	}
	if !r.Grow(nil, 1<<60) {
		t.Error("no budget has a limit")
	}
}

func TestTrimmer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		trimmed := make(chan time.Time, 100)
		trimmer := newTrimmer(func() { trimmed <- time.Now() })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			trimmer.Run(ctx)
			close(ended)
		}()
		// expect checks when trims have happened since the last call. They may come up to ten seconds late.
		expect := func(what string, want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			if len(trimmed) != len(want) {
				t.Errorf("%s: %d trims, want %d", what, len(trimmed), len(want))
			}
			for _, at := range want {
				if got := (<-trimmed).Sub(begin); got < at || got > at+10*time.Second {
					t.Errorf("%s: trimmed after %v, want %v", what, got, at)
				}
			}
			begin = time.Now()
		}
		time.Sleep(time.Hour)
		expect("nothing was used")
		for range 10 {
			trimmer.Used()
			time.Sleep(time.Second)
		}
		expect("busy")
		time.Sleep(time.Hour)
		expect("quiet", quiet-time.Second)
		time.Sleep(time.Hour)
		expect("quiet for long")
		trimmer.Used()
		time.Sleep(time.Hour)
		expect("quiet again", quiet)
		cancel()
		<-ended
		var none *Trimmer
		none.Used()
	})
}
