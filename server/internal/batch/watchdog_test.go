package batch_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
)

const batchLimit = 30 * time.Second

func watchAll(b *batcher) { b.Watch(func([]entry) time.Duration { return batchLimit }) }

// expectHung checks that a Submit failed because a batch of this size hangs.
func expectHung(t *testing.T, what string, err error, size int) {
	t.Helper()
	var hung *batch.HungError
	if !errors.As(err, &hung) || hung.BatchSize != size || hung.Elapsed < batchLimit || hung.Elapsed > batchLimit+time.Second || isRunError(err) {
		t.Errorf("%s: got %v, want a HungError of a batch of %d", what, err, size)
	}
}

// A batch that never ends, in Run or in the function that Run returns, fails its own items, the waiting ones and later ones.
// Close doesn't wait for it.
func TestHangingBatchEndsTheBatcher(t *testing.T) {
	for _, inComplete := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			c := config(&recorder{})
			c.MaxWait = 0
			c.Run = func(_ int, items []entry) (func() ([]int, error), error) {
				hang := func() ([]int, error) {
					<-release
					return make([]int, len(items)), nil
				}
				if inComplete {
					return hang, nil
				}
				results, err := hang()
				return func() ([]int, error) { return results, err }, nil
			}
			b := start(t, c)
			watchAll(b)
			running := submit(b, t.Context(), entry{"s", 1})
			next := submit(b, t.Context(), entry{"s", 2}) // with inComplete its Run has returned as well
			waiting := []<-chan submission{submit(b, t.Context(), entry{"s", 3}), submit(b, t.Context(), entry{"t", 4})}
			time.Sleep(batchLimit / 10)
			if err := b.Healthy(); err != nil {
				t.Errorf("after a tenth of the limit: %v", err)
			}
			time.Sleep(batchLimit / 5)
			if err := b.Healthy(); err == nil || errors.As(err, new(*batch.HungError)) {
				t.Errorf("after more than a sixth of the limit: got %v, want that it may hang", err)
			}
			time.Sleep(batchLimit)
			expectHung(t, "the running item", (<-running).err, 1)
			expectHung(t, "the next item", (<-next).err, 1)
			for _, each := range waiting {
				expectHung(t, "a waiting item", (<-each).err, 1)
			}
			later := <-submit(b, t.Context(), entry{"s", 5})
			if expectHung(t, "a later item", later.err, 1); later.at != 0 {
				t.Errorf("a later item waited for %v", later.at)
			}
			expectHung(t, "Healthy", b.Healthy(), 1)
			b.Close()
			close(release) // what hung goes on: its results are dropped, and the goroutines end
		})
	}
}

// Close is already waiting when the batch reaches its limit.
func TestCloseReturnsWhenABatchHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := config(&recorder{})
		c.Run = synchronous(func(items []entry) ([]int, error) {
			<-release
			return make([]int, len(items)), nil
		})
		b := start(t, c)
		watchAll(b)
		first, second := submit(b, t.Context(), entry{"s", 1}), submit(b, t.Context(), entry{"s", 2})
		begin := time.Now()
		b.Close()
		if took := time.Since(begin); took < batchLimit || took > batchLimit+time.Second {
			t.Errorf("Close took %v", took)
		}
		expectHung(t, "an item", (<-first).err, 2)
		expectHung(t, "an item", (<-second).err, 2)
		close(release)
	})
}

// A batch of another runner finishes.
func TestHangOfOneRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := config(&recorder{})
		c.Runners, c.MaxWait = 2, 0
		c.Run = synchronous(func(items []entry) ([]int, error) {
			if items[0].id == 1 {
				<-release
			} else {
				time.Sleep(batchLimit / 2)
			}
			return []int{-items[0].id}, nil
		})
		b := start(t, c)
		watchAll(b)
		hanging := submit(b, t.Context(), entry{"s", 1})
		time.Sleep(batchLimit * 4 / 5)
		slow := submit(b, t.Context(), entry{"s", 2})
		expectHung(t, "the item that hangs", (<-hanging).err, 1)
		expectResult(t, <-slow, 2)
		close(release)
	})
}

// Slow batches within the limit change nothing, however many there are, and a slow batch is forgotten when it ends.
func TestSlowBatchesAreNotHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: batchLimit - 2*time.Second}
		b := start(t, config(r))
		watchAll(b)
		for id := range 5 {
			expectResult(t, <-submit(b, t.Context(), entry{"s", id}), id)
			if err := b.Healthy(); err != nil {
				t.Errorf("after the slow batch: %v", err)
			}
		}
		time.Sleep(time.Hour) // idle
		expectResult(t, <-submit(b, t.Context(), entry{"s", 9}), 9)
	})
}
