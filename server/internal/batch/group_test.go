package batch_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
)

// entries returns items of the shape a.
func entries(ids ...int) []entry {
	var all []entry
	for _, id := range ids {
		all = append(all, entry{"a", id})
	}
	return all
}

// submitAll submits groups of an arrival one after the other, as a request with tiles does.
func submitAll(t *testing.T, a *batch.Arrival[string, entry, int], groups ...[]entry) {
	t.Helper()
	defer a.Leave()
	for _, group := range groups {
		wait, err := a.SubmitAll(t.Context(), group)
		if err != nil {
			t.Errorf("SubmitAll of %v: %v", group, err)
			return
		}
		replies, err := wait()
		if err != nil {
			t.Errorf("the group %v: %v", group, err)
			return
		}
		for i, reply := range replies {
			if reply.Result != -group[i].id {
				t.Errorf("%v got the result %d", group[i], reply.Result)
			}
		}
	}
}

// Groups share the one place of their Arrival, and enter batches whole.
func TestGroupsShareOnePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Second}
		c := config(r)
		c.MaxBatchSize, c.MaxQueueSize, c.FixedWait = 4, 1, false
		b := start(t, c)
		a := b.Arrive()
		if err := a.Admit(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			submitAll(t, a, entries(1, 2, 3, 4, 5, 6), entries(7, 8, 9))
		}()
		synctest.Wait()
		if n := b.Waiting(); n != 1 {
			t.Errorf("%d places are taken, want 1", n)
		}
		if _, err := b.Arrive().Submit(t.Context(), entry{"a", 10}); !errors.Is(err, batch.ErrFull) {
			t.Errorf("beside it: %v, want %v", err, batch.ErrFull)
		}
		<-done
		if n := b.Waiting(); n != 0 {
			t.Errorf("%d places are taken afterwards, want 0", n)
		}
		if got, want := r.ids(), [][]int{{1, 2, 3, 4}, {5, 6}, {7, 8, 9}}; !reflect.DeepEqual(got, want) {
			t.Errorf("batches %v, want %v", got, want)
		}
	})
}

// An item that comes while a large piece of work runs waits for the group that is in the queue, not for all of them.
func TestGroupsTakeTurnsWithOthers(t *testing.T) {
	for _, shape := range []string{"a", "b"} { // the groups' shape, and another one
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{takes: time.Second}
			c := config(r)
			c.MaxQueueSize, c.FixedWait = 2, false
			b := start(t, c)
			done := make(chan struct{})
			go func() {
				defer close(done)
				submitAll(t, b.Arrive(), entries(1, 2), entries(3, 4), entries(5, 6), entries(7, 8))
			}()
			time.Sleep(1500 * time.Millisecond) // the second group runs
			small := submit(b, t.Context(), entry{shape, 100})
			if s := <-small; s.err != nil || s.at != 1500*time.Millisecond {
				t.Errorf("shape %s: %v after %v, want a result after the running group and its own batch, 1.5s", shape, s.err, s.at)
			}
			<-done
			if got := r.ids(); !slices.Contains(got[2], 100) {
				t.Errorf("shape %s: batches %v, want item 100 in the third", shape, got)
			}
		})
	}
}

// Groups share batches with other items of their shape.
func TestGroupsShareBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Second}
		c := config(r)
		c.MaxBatchSize, c.FixedWait = 5, false
		b := start(t, c)
		first := submit(b, t.Context(), entry{"b", 1}) // keeps the runner busy
		synctest.Wait()
		var groups sync.WaitGroup
		groups.Go(func() { submitAll(t, b.Arrive(), entries(2, 3)) })
		synctest.Wait()
		groups.Go(func() { submitAll(t, b.Arrive(), entries(4, 5)) })
		synctest.Wait()
		last := submit(b, t.Context(), entry{"a", 6})
		<-first
		<-last
		groups.Wait()
		if got, want := r.ids(), [][]int{{1}, {2, 3, 4, 5, 6}}; !reflect.DeepEqual(got, want) {
			t.Errorf("batches %v, want %v", got, want)
		}
	})
}

// When its context ends, or one of its items fails, the rest of a group leaves the queue.
func TestAGroupIsWithdrawn(t *testing.T) {
	why := errors.New("why")
	for name, fails := range map[string]error{"cancelled": nil, "failed": why} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{takes: time.Second, fails: func([]entry) error { return fails }}
			b := start(t, config(r))
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			a := b.Arrive()
			defer a.Leave()
			wait, err := a.SubmitAll(ctx, entries(1, 2, 3, 4, 5))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the first two run
			if fails == nil {
				cancel(why)
			}
			if _, err := wait(); !errors.Is(err, why) {
				t.Errorf("%s: got %v, want %v", name, err, why)
			}
			time.Sleep(time.Minute)
			// The runner may have taken the next batch when the first one failed.
			if got := r.ids(); len(got) > 2 || fails == nil && len(got) > 1 {
				t.Errorf("%s: batches %v, want the first alone", name, got)
			}
			if _, err := a.SubmitAll(ctx, entries(6)); fails == nil && !errors.Is(err, why) {
				t.Errorf("%s: another group: %v, want %v", name, err, why)
			}
		})
	}
}

// Close waits for an Arrival that has submitted a group, and lets it go on. One that hasn't is refused.
func TestCloseWaitsForGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Second}
		c := config(r)
		c.Runners = 2
		b := start(t, c)
		done := make(chan struct{})
		go func() {
			defer close(done)
			submitAll(t, b.Arrive(), entries(1, 2), entries(3), entries(4, 5))
		}()
		synctest.Wait()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			b.Close()
		}()
		synctest.Wait()
		if _, err := b.Arrive().SubmitAll(t.Context(), entries(9)); !errors.Is(err, batch.ErrClosed) {
			t.Errorf("a new one: %v, want %v", err, batch.ErrClosed)
		}
		<-closed
		<-done
		if got, want := r.ids(), [][]int{{1, 2}, {3}, {4, 5}}; !reflect.DeepEqual(got, want) {
			t.Errorf("batches %v, want %v", got, want)
		}
	})
}

// A group whose batch hangs gets the error, and so does the next one.
func TestAGroupHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		b.Watch(func([]entry) time.Duration { return time.Second })
		a := b.Arrive()
		defer a.Leave()
		wait, err := a.SubmitAll(t.Context(), entries(1, 2, 3))
		if err != nil {
			t.Fatal(err)
		}
		var hung *batch.HungError
		if _, err := wait(); !errors.As(err, &hung) {
			t.Errorf("got %v", err)
		}
		if _, err := a.SubmitAll(t.Context(), entries(4)); !errors.As(err, &hung) {
			t.Errorf("the next group: %v", err)
		}
		if n := b.Waiting(); n != 1 {
			t.Errorf("%d places are taken, want the arrival's", n)
		}
		time.Sleep(time.Minute) // until the batch ends
	})
}

// In random schedules of groups, single items, cancellations, failures and Close, each call returns, each result is the
// item's own, and all places come back.
func TestRandomSchedulesOfGroups(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		synctest.Test(t, func(t *testing.T) {
			failed := errors.New("failed")
			r := &recorder{takes: time.Duration(random.IntN(20)) * time.Millisecond, fails: func(items []entry) error {
				if items[0].id%17 == 0 {
					return failed
				}
				return nil
			}}
			c := config(r)
			c.MaxBatchSize, c.MaxQueueSize, c.Runners, c.FixedWait = 1+random.IntN(4), 1+random.IntN(4), 1+random.IntN(2), random.IntN(2) == 0
			b, err := batch.New(c)
			if err != nil {
				t.Fatal(err)
			}
			var work sync.WaitGroup
			for request := range 12 {
				start, patience := time.Duration(random.IntN(200))*time.Millisecond, time.Duration(1+random.IntN(3000))*time.Millisecond
				var groups [][]entry
				for group := range random.IntN(5) {
					var items []entry
					for item := range 1 + random.IntN(6) {
						items = append(items, entry{string('a' + rune(request%2)), 1 + 100*request + 10*group + item})
					}
					groups = append(groups, items)
				}
				work.Go(func() {
					time.Sleep(start)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					a := b.Arrive()
					defer a.Leave()
					if len(groups) == 0 {
						_, _ = a.Submit(ctx, entry{"a", 1 + 100*request})
						return
					}
					for _, group := range groups {
						wait, err := a.SubmitAll(ctx, group)
						if err != nil {
							return
						}
						replies, err := wait()
						if err != nil {
							return
						}
						for i, reply := range replies {
							if reply.Result != -group[i].id {
								t.Errorf("seed %d: item %d got the result %d", seed, group[i].id, reply.Result)
							}
						}
					}
				})
			}
			if random.IntN(2) == 0 {
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
				b.Close()
			}
			work.Wait()
			if n := b.Waiting(); n != 0 {
				t.Errorf("seed %d: %d places are taken, want 0", seed, n)
			}
			b.Close()
		})
	}
}
