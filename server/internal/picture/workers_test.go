package picture

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A customer keeps several requests waiting before the workers, each of which wants one for some time.
type customer struct {
	queue *queue
	task  time.Duration
	had   time.Duration // of the workers' time
}

func (c *customer) work(ctx context.Context, wg *sync.WaitGroup, mu *sync.Mutex) {
	for range 8 {
		wg.Go(func() {
			for {
				release, err := c.queue.acquire(ctx, decoding)
				if err != nil {
					return
				}
				time.Sleep(c.task)
				mu.Lock()
				c.had += c.task
				mu.Unlock()
				release()
			}
		})
	}
}

// Under a load that is too much for the workers each codec has the share of their time that its weight says, however
// long its pictures take.
func TestSharesOfTheWorkers(t *testing.T) {
	for _, count := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			const seconds = 100
			workers := NewWorkers(count)
			customers := []*customer{
				{queue: workers.newQueue(3), task: time.Millisecond},
				{queue: workers.newQueue(1), task: 20 * time.Millisecond},
				{queue: workers.newQueue(1), task: 5 * time.Millisecond},
			}
			ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			var mu sync.Mutex
			for _, c := range customers {
				c.work(ctx, &wg, &mu)
			}
			wg.Wait()
			for i, want := range []float64{0.6, 0.2, 0.2} {
				if share := customers[i].had.Seconds() / (seconds * float64(count)); math.Abs(share-want) > 0.01 {
					t.Errorf("%d workers: customer %d had %.3f of their time instead of %.1f", count, i, share, want)
				}
			}
		})
	}
}

// Who was idle has no claim to the time that others had meanwhile.
func TestIdlenessSavesNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		workers := NewWorkers(1)
		busy := &customer{queue: workers.newQueue(1), task: time.Millisecond}
		late := &customer{queue: workers.newQueue(1), task: time.Millisecond}
		ctx, cancel := context.WithTimeout(t.Context(), 110*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		var mu sync.Mutex
		busy.work(ctx, &wg, &mu)
		time.Sleep(100 * time.Second)
		mu.Lock()
		before := busy.had
		mu.Unlock()
		late.work(ctx, &wg, &mu)
		wg.Wait()
		if share := (busy.had - before).Seconds() / 10; math.Abs(share-0.5) > 0.01 {
			t.Errorf("the busy one had %.3f of the time after the other came, instead of a half", share)
		}
	})
}
