package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
)

// An entry is an item of these tests: its shape, and what it is known by.
type entry struct {
	shape string
	id    int
}

// A recorder is a Run function that keeps the batches it was given.
type recorder struct {
	takes time.Duration // how long each batch runs
	fails func(items []entry) error

	mu      sync.Mutex
	batches []ran
}

type ran struct {
	start time.Duration // since the recorder's first sight of the clock
	items []entry
}

func (r *recorder) ids() [][]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all [][]int
	for _, b := range r.batches {
		var ids []int
		for _, it := range b.items {
			ids = append(ids, it.id)
		}
		all = append(all, ids)
	}
	return all
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where a synctest bubble's clock starts

// run answers each item with its id, negated.
func (r *recorder) run(items []entry) ([]int, error) {
	r.mu.Lock()
	r.batches = append(r.batches, ran{start: time.Since(epoch), items: slices.Clone(items)})
	r.mu.Unlock()
	if r.takes > 0 {
		time.Sleep(r.takes) // the bubble's clock, not the wall's
	}
	if r.fails != nil {
		if err := r.fails(items); err != nil {
			return nil, err
		}
	}
	results := make([]int, len(items))
	for i, it := range items {
		results[i] = -it.id
	}
	return results, nil
}

// atOnce makes a Run of a function that has the results when it returns.
func atOnce(run func([]entry) ([]int, error)) func(int, []entry) (func() ([]int, error), error) {
	return func(_ int, items []entry) (func() ([]int, error), error) {
		results, err := run(items)
		return func() ([]int, error) { return results, nil }, err
	}
}

type batcher = batch.Batcher[string, entry, int]

func config(r *recorder) batch.Config[string, entry, int] {
	return batch.Config[string, entry, int]{
		MaxBatchSize: 2, MaxQueueSize: 3, MaxWait: time.Second, WaitPolicy: batch.Fixed,
		Shape: func(e entry) string { return e.shape },
		Run:   atOnce(r.run), Runners: 1,
	}
}

// start makes a batcher that the test closes.
func start(t *testing.T, c batch.Config[string, entry, int]) *batcher {
	t.Helper()
	b, err := batch.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// An answer is what one Submit returned, and when.
type answer struct {
	reply batch.Reply[int]
	err   error
	at    time.Duration // since the submission
}

// submit submits in a goroutine of its own and returns where the answer will be. It returns when the item waits
// or has been answered.
func submit(b *batcher, ctx context.Context, e entry) <-chan answer {
	answers := make(chan answer, 1)
	arrival := b.Arrive()
	go func() {
		began := time.Now()
		reply, err := arrival.Submit(ctx, e)
		answers <- answer{reply, err, time.Since(began)}
	}()
	synctest.Wait()
	return answers
}

func expectIDs(t *testing.T, r *recorder, want ...[]int) {
	t.Helper()
	if got := r.ids(); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("batches %v instead of %v", got, want)
	}
}

func expectResult(t *testing.T, got answer, id int) {
	t.Helper()
	if got.err != nil || got.reply.Result != -id {
		t.Errorf("item %d: result %d, error %v", id, got.reply.Result, got.err)
	}
}

func TestItemsOfOneShapeKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxQueueSize = 10
		b := start(t, c)
		var answers []<-chan answer
		for id := range 7 {
			answers = append(answers, submit(b, t.Context(), entry{"s", id}))
		}
		for id, a := range answers {
			expectResult(t, <-a, id)
		}
		expectIDs(t, r, []int{0, 1}, []int{2, 3}, []int{4, 5}, []int{6})
	})
}

func TestAFullBatchIsLaunchedAtOnce(t *testing.T) {
	for _, policy := range []batch.WaitPolicy{batch.Adaptive, batch.Fixed} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{}
			c := config(r)
			c.WaitPolicy = policy
			b := start(t, c)
			company := b.Arrive() // so that Adaptive waits as well
			first := submit(b, t.Context(), entry{"s", 1})
			expectIDs(t, r)
			second := submit(b, t.Context(), entry{"s", 2})
			a := <-first
			expectResult(t, a, 1)
			expectResult(t, <-second, 2)
			if a.at != 0 || a.reply.Queue != 0 || a.reply.BatchSize != 2 {
				t.Errorf("answered after %v, queued for %v in a batch of %d", a.at, a.reply.Queue, a.reply.BatchSize)
			}
			company.Leave()
		})
	}
}

func TestUnlikeShapesDoNotShareABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		b := start(t, config(r))
		a1 := submit(b, t.Context(), entry{"a", 1})
		b2 := submit(b, t.Context(), entry{"b", 2})
		expectIDs(t, r)
		expectResult(t, <-a1, 1)
		expectResult(t, <-b2, 2)
		expectIDs(t, r, []int{1}, []int{2})
	})
}

func TestTheOldestItemGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxQueueSize = 10
		b := start(t, c)
		_ = submit(b, t.Context(), entry{"a", 1})
		_ = submit(b, t.Context(), entry{"a", 2})
		lone := submit(b, t.Context(), entry{"b", 3})
		_ = submit(b, t.Context(), entry{"a", 4})
		last := submit(b, t.Context(), entry{"a", 5})
		expectResult(t, <-lone, 3)
		expectResult(t, <-last, 5)
		expectIDs(t, r, []int{1, 2}, []int{3}, []int{4, 5})
	})
}

func TestWaitingCountsFromTheOldestArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := config(r)
		c.MaxBatchSize = 3
		b := start(t, c)
		first := submit(b, t.Context(), entry{"s", 1})
		time.Sleep(900 * time.Millisecond)
		second := submit(b, t.Context(), entry{"s", 2})
		if a := <-first; a.at != time.Second || a.reply.Queue != time.Second {
			t.Errorf("the first item was answered after %v, queued for %v", a.at, a.reply.Queue)
		}
		if a := <-second; a.at != 100*time.Millisecond {
			t.Errorf("the second item was answered after %v", a.at)
		}
		expectIDs(t, r, []int{1, 2})
	})
}

// The demo's timer, set for an item that a full batch has taken along, fires on an empty queue and kills its
// runner.
func TestNothingHappensOnAnEmptyQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		b := start(t, config(r))
		first := submit(b, t.Context(), entry{"s", 1})
		_ = submit(b, t.Context(), entry{"s", 2})
		<-first
		time.Sleep(time.Hour)
		expectResult(t, <-submit(b, t.Context(), entry{"s", 3}), 3)
		expectIDs(t, r, []int{1, 2}, []int{3})
	})
}

func TestAdaptiveDoesNotWaitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := config(r)
		c.WaitPolicy = batch.Adaptive
		b := start(t, c)
		a := <-submit(b, t.Context(), entry{"s", 1})
		expectResult(t, a, 1)
		if a.at != 0 {
			t.Errorf("answered after %v", a.at)
		}
	})
}

func TestAdaptiveWaitsForArrivals(t *testing.T) {
	const young, old = 300 * time.Millisecond, 5 * time.Second
	tests := []struct {
		name string
		age  time.Duration // of the arrival when the item comes
		then func(*batch.Arrival[string, entry, int])
		want time.Duration // until the item is answered
	}{
		{"that leaves", young, func(a *batch.Arrival[string, entry, int]) { a.Leave() }, 200 * time.Millisecond},
		{"that stays on its way", young, nil, 700 * time.Millisecond},
		{"that has been on its way for long", old, nil, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				c := config(r)
				c.WaitPolicy = batch.Adaptive
				b := start(t, c)
				company := b.Arrive()
				defer company.Leave()
				time.Sleep(test.age)
				item := submit(b, t.Context(), entry{"s", 1})
				if test.then != nil {
					time.Sleep(200 * time.Millisecond)
					test.then(company)
				}
				a := <-item
				expectResult(t, a, 1)
				if a.at != test.want {
					t.Errorf("answered after %v instead of %v", a.at, test.want)
				}
			})
		})
	}
}

func TestArrivalsCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(&recorder{})
		c.WaitPolicy = batch.Adaptive
		b := start(t, c)
		arrival := b.Arrive()
		_, err := arrival.Submit(t.Context(), entry{"s", 1})
		if err != nil {
			t.Fatal(err)
		}
		arrival.Leave()
		arrival.Leave()
		if a := <-submit(b, t.Context(), entry{"s", 2}); a.err != nil || a.at != 0 {
			t.Errorf("after Leave: %v after %v", a.err, a.at)
		}
	})
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		var answers []<-chan answer
		for id := range 5 { // two run, three wait
			if b.Full() {
				t.Errorf("full before item %d", id)
			}
			answers = append(answers, submit(b, t.Context(), entry{"s", id}))
		}
		if !b.Full() {
			t.Error("not full with three waiting")
		}
		if a := <-submit(b, t.Context(), entry{"s", 5}); !errors.Is(a.err, batch.ErrFull) || a.at != 0 {
			t.Errorf("the sixth item: %v after %v", a.err, a.at)
		}
		for id, a := range answers {
			expectResult(t, <-a, id)
		}
	})
}

func TestCancelledItemsNeverEnterABatch(t *testing.T) {
	left := errors.New("the client left")
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		_ = submit(b, t.Context(), entry{"s", 0})
		_ = submit(b, t.Context(), entry{"s", 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		waiting := submit(b, ctx, entry{"s", 2})
		_ = submit(b, t.Context(), entry{"s", 3})
		_ = submit(b, t.Context(), entry{"s", 4})
		cancel(left)
		if a := <-waiting; !errors.Is(a.err, left) || a.at != 0 {
			t.Errorf("the cancelled item: %v after %v", a.err, a.at)
		}
		last := submit(b, t.Context(), entry{"s", 5}) // takes the place that became free
		expectResult(t, <-last, 5)
		if a := <-submit(b, ctx, entry{"s", 6}); !errors.Is(a.err, left) {
			t.Errorf("an item cancelled before it came: %v", a.err)
		}
		expectIDs(t, r, []int{0, 1}, []int{3, 4}, []int{5})
	})
}

func TestExpiredItemsNeverEnterABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		_ = submit(b, t.Context(), entry{"s", 0})
		busy := submit(b, t.Context(), entry{"s", 1})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		a := <-submit(b, ctx, entry{"s", 2})
		if !errors.Is(a.err, context.DeadlineExceeded) || a.at != 10*time.Second {
			t.Errorf("the expired item: %v after %v", a.err, a.at)
		}
		<-busy
		time.Sleep(time.Hour)
		expectIDs(t, r, []int{0, 1})
	})
}

func TestAnItemGivenUpWhileItRunsIsAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		ctx, cancel := context.WithCancel(t.Context())
		gone := submit(b, ctx, entry{"s", 0})
		stays := submit(b, t.Context(), entry{"s", 1})
		time.Sleep(time.Second)
		cancel()
		if a := <-gone; !errors.Is(a.err, context.Canceled) || a.at != time.Second {
			t.Errorf("%v after %v", a.err, a.at)
		}
		expectResult(t, <-stays, 1)
	})
}

func TestAFailedBatchFailsAlone(t *testing.T) {
	broken := errors.New("broken")
	failures := map[string]struct {
		fails func() ([]int, error)
		check func(error) bool
	}{
		"error": {func() ([]int, error) { return nil, broken }, func(err error) bool { return errors.Is(err, broken) }},
		"panic": {func() ([]int, error) { panic("broken") }, func(err error) bool {
			var p *batch.PanicError
			return errors.As(err, &p) && p.Value == "broken" && strings.Contains(string(p.Stack), "batch_test.go")
		}},
		"too few results": {func() ([]int, error) { return []int{1}, nil }, func(err error) bool { return err != nil }},
	}
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				c := config(r)
				c.MaxQueueSize = 4
				c.Run = atOnce(func(items []entry) ([]int, error) {
					if items[0].shape == "bad" {
						return failure.fails()
					}
					return r.run(items)
				})
				b := start(t, c)
				before := submit(b, t.Context(), entry{"good", 1})
				bad := submit(b, t.Context(), entry{"bad", 2})
				alsoBad := submit(b, t.Context(), entry{"bad", 3})
				for _, answers := range []<-chan answer{bad, alsoBad} {
					if a := <-answers; !failure.check(a.err) {
						t.Errorf("an item of the failed batch got %v", a.err)
					}
				}
				expectResult(t, <-before, 1)
				expectResult(t, <-submit(b, t.Context(), entry{"good", 4}), 4)
			})
		})
	}
}

// A batch can fail as late as when its results are awaited.
func TestFailureOfResultsReachesItsBatchOnly(t *testing.T) {
	broken := errors.New("broken")
	for name, finish := range map[string]func() ([]int, error){
		"error": func() ([]int, error) { return nil, broken },
		"panic": func() ([]int, error) { panic(broken) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config(&recorder{})
				atOnce := c.Run
				c.Run = func(runner int, items []entry) (func() ([]int, error), error) {
					if items[0].shape == "bad" {
						return finish, nil
					}
					return atOnce(runner, items)
				}
				b := start(t, c)
				bad := submit(b, t.Context(), entry{"bad", 1})
				good := submit(b, t.Context(), entry{"good", 2})
				a := <-bad
				var p *batch.PanicError
				if !errors.Is(a.err, broken) && !errors.As(a.err, &p) {
					t.Errorf("an item of the failed batch got %v", a.err)
				}
				expectResult(t, <-good, 2)
			})
		})
	}
}

// Starting a batch takes a minute, and so do its results: the next one starts while the results are awaited, but no
// third one before they are there.
func TestNextBatchStartsWhileResultsAreAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(&recorder{})
		c.MaxBatchSize, c.MaxWait = 1, 0
		var starts []time.Duration
		c.Run = func(_ int, items []entry) (func() ([]int, error), error) {
			starts = append(starts, time.Since(epoch))
			id := items[0].id
			return func() ([]int, error) {
				time.Sleep(time.Minute)
				return []int{-id}, nil
			}, nil
		}
		b := start(t, c)
		var answers []<-chan answer
		for id := range 3 {
			answers = append(answers, submit(b, t.Context(), entry{"s", id}))
		}
		for id, answers := range answers {
			a := <-answers
			expectResult(t, a, id)
			if want := time.Duration(id+1) * time.Minute; a.at != want {
				t.Errorf("item %d was answered after %v instead of %v", id, a.at, want)
			}
		}
		if want := []time.Duration{0, 0, time.Minute}; !slices.Equal(starts, want) {
			t.Errorf("the batches started at %v instead of %v", starts, want)
		}
	})
}

func TestRunnersWorkSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxBatchSize, c.MaxQueueSize, c.MaxWait, c.Runners = 1, 9, 0, 3
		b := start(t, c)
		var answers []<-chan answer
		for id := range 6 {
			answers = append(answers, submit(b, t.Context(), entry{"s", id}))
		}
		for id, answers := range answers {
			a := <-answers
			expectResult(t, a, id)
			if want := time.Duration(1+id/3) * time.Minute; a.at != want {
				t.Errorf("item %d was answered after %v instead of %v", id, a.at, want)
			}
		}
	})
}

func TestCloseAnswersWhatWasAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxWait = time.Hour
		b := start(t, c)
		var answers []<-chan answer
		for id := range 5 {
			answers = append(answers, submit(b, t.Context(), entry{"s", id}))
		}
		closed := make(chan struct{})
		go func() {
			b.Close()
			close(closed)
		}()
		synctest.Wait()
		if a := <-submit(b, t.Context(), entry{"s", 9}); !errors.Is(a.err, batch.ErrClosed) || a.at != 0 {
			t.Errorf("after Close: %v after %v", a.err, a.at)
		}
		for id, a := range answers {
			expectResult(t, <-a, id)
		}
		<-closed
		if passed := time.Since(epoch); passed != 3*time.Minute {
			t.Errorf("closing took until %v: an incomplete batch waited for company", passed)
		}
	})
}

func TestStopWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(&recorder{})
		c.MaxWait = time.Hour
		b := start(t, c)
		onItsWay := b.Arrive()
		waiting := submit(b, t.Context(), entry{"s", 1})
		time.Sleep(time.Minute)
		b.StopWaiting()
		if a := <-waiting; a.err != nil || a.at != time.Minute {
			t.Errorf("the waiting item: %v after %v", a.err, a.at)
		}
		if reply, err := onItsWay.Submit(t.Context(), entry{"s", 2}); err != nil || reply.Queue != 0 {
			t.Errorf("the item on its way: %v after %v", err, reply.Queue)
		}
	})
}

// The bubble also makes sure that the runners which were set up have ended.
func TestSetup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no such model")
		c := config(&recorder{})
		c.Runners = 3
		var runners []int
		c.Setup = func(runner int) error {
			runners = append(runners, runner)
			if runner == 1 {
				return broken
			}
			return nil
		}
		if _, err := batch.New(c); !errors.Is(err, broken) {
			t.Errorf("New returned %v", err)
		}
		if !slices.Equal(runners, []int{0, 1}) {
			t.Errorf("set up were the runners %v", runners)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*batch.Config[string, entry, int]){
		"no batch":   func(c *batch.Config[string, entry, int]) { c.MaxBatchSize = 0 },
		"no queue":   func(c *batch.Config[string, entry, int]) { c.MaxQueueSize = 0 },
		"wait below": func(c *batch.Config[string, entry, int]) { c.MaxWait = -1 },
		"no runner":  func(c *batch.Config[string, entry, int]) { c.Runners = 0 },
		"policy":     func(c *batch.Config[string, entry, int]) { c.WaitPolicy = 7 },
		"no run":     func(c *batch.Config[string, entry, int]) { c.Run = nil },
		"no shape":   func(c *batch.Config[string, entry, int]) { c.Shape = nil },
	} {
		c := config(&recorder{})
		change(&c)
		if _, err := batch.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Many goroutines at once, by the wall's clock and under the race detector: every item gets its own result.
func TestConcurrentItemsGetTheirOwnResults(t *testing.T) {
	r := &recorder{}
	c := config(r)
	c.MaxBatchSize, c.MaxQueueSize, c.MaxWait, c.WaitPolicy = 5, 64, time.Millisecond, batch.Adaptive
	c.Runners = 2
	b := start(t, c)
	var wg sync.WaitGroup
	for client := range 32 {
		wg.Go(func() {
			for i := range 200 {
				id := client*1000 + i
				reply, err := b.Arrive().Submit(t.Context(), entry{fmt.Sprint(id % 3), id})
				if err != nil || reply.Result != -id {
					t.Errorf("item %d: %d, %v", id, reply.Result, err)
				}
			}
		})
	}
	wg.Wait()
}
