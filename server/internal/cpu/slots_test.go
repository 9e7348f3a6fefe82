package cpu

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A client keeps eight goroutines in its queue, each of which holds a slot for a fixed time, over and over.
type client struct {
	queue *Queue
	hold  time.Duration
	used  time.Duration // of the slots' time
}

func (c *client) run(ctx context.Context, wg *sync.WaitGroup, mu *sync.Mutex) {
	for range 8 {
		wg.Go(func() {
			for {
				release, err := c.queue.Acquire(ctx, Decoding)
				if err != nil {
					return
				}
				time.Sleep(c.hold)
				mu.Lock()
				c.used += c.hold
				mu.Unlock()
				release()
			}
		})
	}
}

// Under overload each queue gets the share of the slots' time that corresponds to its weight, however long it holds a slot.
func TestSlotsShareTimeByWeight(t *testing.T) {
	for _, count := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			const seconds = 100
			slots := NewSlots(count)
			clients := []*client{
				{queue: slots.NewQueue(3), hold: time.Millisecond},
				{queue: slots.NewQueue(1), hold: 20 * time.Millisecond},
				{queue: slots.NewQueue(1), hold: 5 * time.Millisecond},
			}
			ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			var mu sync.Mutex
			for _, c := range clients {
				c.run(ctx, &wg, &mu)
			}
			wg.Wait()
			for i, want := range []float64{0.6, 0.2, 0.2} {
				if share := clients[i].used.Seconds() / (seconds * float64(count)); math.Abs(share-want) > 0.01 {
					t.Errorf("%d slots: client %d had %.3f of their time, want %.1f", count, i, share, want)
				}
			}
		})
	}
}

// A queue that was idle has no claim to the time that others used meanwhile.
func TestIdleQueueSavesNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := NewSlots(1)
		busy := &client{queue: slots.NewQueue(1), hold: time.Millisecond}
		late := &client{queue: slots.NewQueue(1), hold: time.Millisecond}
		ctx, cancel := context.WithTimeout(t.Context(), 110*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		var mu sync.Mutex
		busy.run(ctx, &wg, &mu)
		time.Sleep(100 * time.Second)
		mu.Lock()
		before := busy.used
		mu.Unlock()
		late.run(ctx, &wg, &mu)
		wg.Wait()
		if share := (busy.used - before).Seconds() / 10; math.Abs(share-0.5) > 0.01 {
			t.Errorf("after the other queue arrived, the busy one had %.3f of the time, want 0.5", share)
		}
	})
}

// Within a queue encoding goes before decoding, and else the oldest waiter first. Those that leave are passed over.
func TestEncodingGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := NewSlots(1).NewQueue(1)
		release, err := queue.Acquire(t.Context(), Decoding)
		if err != nil {
			t.Fatal(err)
		}
		var order []string // written by whoever holds the slot
		wait := func(name string, ctx context.Context) {
			priority := Decoding
			if strings.HasPrefix(name, "encode") {
				priority = Encoding
			}
			release, err := queue.Acquire(ctx, priority)
			if err != nil {
				return
			}
			order = append(order, name)
			release()
		}
		leaving, leave := context.WithCancel(t.Context())
		for _, name := range []string{"decode 1", "decode, leaves", "decode 2", "encode, leaves", "encode 1", "encode 2"} {
			ctx := t.Context()
			if strings.HasSuffix(name, "leaves") {
				ctx = leaving
			}
			go wait(name, ctx)
			synctest.Wait()
		}
		leave()
		synctest.Wait()
		release()
		synctest.Wait()
		if want := []string{"encode 1", "encode 2", "decode 1", "decode 2"}; !slices.Equal(order, want) {
			t.Errorf("got %q, want %q", order, want)
		}
	})
}

// A waiter whose context ends leaves the queue with the context's cause, and the slot goes to the next waiter.
func TestCanceledWaiterLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := NewSlots(1).NewQueue(1)
		release, err := queue.Acquire(t.Context(), Decoding)
		if err != nil {
			t.Fatal(err)
		}
		why := errors.New("left")
		ctx, cancel := context.WithCancelCause(t.Context())
		canceled := make(chan error, 1)
		go func() {
			_, err := queue.Acquire(ctx, Decoding)
			canceled <- err
		}()
		synctest.Wait()
		cancel(why)
		if err := <-canceled; !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		release()
		if release, err = queue.Acquire(t.Context(), Decoding); err != nil {
			t.Fatal(err)
		}
		release()
		if _, err := queue.Acquire(ctx, Decoding); !errors.Is(err, why) {
			t.Errorf("with a canceled context: %v", err)
		}
	})
}
