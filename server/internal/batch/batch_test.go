package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
)

// An entry is an item of these tests.
type entry struct {
	shape string
	id    int
}

// A recorder records the batches that its method run gets.
type recorder struct {
	takes time.Duration // how long each batch runs
	fails func(items []entry) error

	mu      sync.Mutex
	batches []ran
}

type ran struct {
	start time.Duration // since epoch
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

// forever is later than the end of every test.
var forever = epoch.AddDate(1, 0, 0)

// epoch is the time at which the clock of a synctest bubble starts.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// run returns each item's id, negated.
func (r *recorder) run(items []entry) ([]int, error) {
	r.mu.Lock()
	r.batches = append(r.batches, ran{start: time.Since(epoch), items: slices.Clone(items)})
	r.mu.Unlock()
	if r.takes > 0 {
		time.Sleep(r.takes) // in a synctest bubble
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

// synchronous makes a Run of a function that returns the results.
func synchronous(run func([]entry) ([]int, error)) func(int, []entry) (func() ([]int, error), error) {
	return func(_ int, items []entry) (func() ([]int, error), error) {
		results, err := run(items)
		return func() ([]int, error) { return results, nil }, err
	}
}

type batcher = batch.Batcher[string, entry, int]

func config(r *recorder) batch.Config[string, entry, int] {
	return batch.Config[string, entry, int]{
		MaxBatchSize: 2, MaxQueueSize: 3, MaxWait: time.Second, FixedWait: true,
		Shape: func(e entry) string { return e.shape },
		Run:   synchronous(r.run), Runners: 1,
	}
}

// start starts a batcher, which is closed at the end of the test.
func start(t *testing.T, c batch.Config[string, entry, int]) *batcher {
	t.Helper()
	b, err := batch.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// A submission is what one Submit returned, and when.
type submission struct {
	reply batch.Reply[int]
	err   error
	at    time.Duration // since the submission
}

// submit calls Submit in a goroutine of its own and returns the channel of what that returns. By then the item is waiting
// or running, or Submit has returned.
func submit(b *batcher, ctx context.Context, e entry) <-chan submission {
	returned := make(chan submission, 1)
	arrival := b.Arrive()
	go func() {
		began := time.Now()
		reply, err := arrival.Submit(ctx, e)
		returned <- submission{reply, err, time.Since(began)}
	}()
	synctest.Wait()
	return returned
}

func expectIDs(t *testing.T, r *recorder, want ...[]int) {
	t.Helper()
	if got := r.ids(); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got batches %v, want %v", got, want)
	}
}

func expectResult(t *testing.T, got submission, id int) {
	t.Helper()
	if got.err != nil || got.reply.Result != -id {
		t.Errorf("item %d: got result %d, error %v", id, got.reply.Result, got.err)
	}
}

func isRunError(err error) bool {
	var runError *batch.RunError
	return errors.As(err, &runError)
}

func TestItemsOfOneShapeKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxQueueSize = 10
		b := start(t, c)
		var returned []<-chan submission
		for id := range 7 {
			returned = append(returned, submit(b, t.Context(), entry{"s", id}))
		}
		for id, a := range returned {
			expectResult(t, <-a, id)
		}
		expectIDs(t, r, []int{0, 1}, []int{2, 3}, []int{4, 5}, []int{6})
	})
}

func TestAFullBatchIsLaunchedAtOnce(t *testing.T) {
	for _, fixedWait := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{}
			c := config(r)
			c.FixedWait = fixedWait
			b := start(t, c)
			pending := b.Arrive()
			pending.Expect(time.Now().Add(time.Millisecond), forever) // without FixedWait, a batch waits for it
			first := submit(b, t.Context(), entry{"s", 1})
			expectIDs(t, r)
			second := submit(b, t.Context(), entry{"s", 2})
			got := <-first
			expectResult(t, got, 1)
			expectResult(t, <-second, 2)
			if got.at != 0 || got.reply.Queue != 0 || got.reply.BatchSize != 2 {
				t.Errorf("returned after %v, queued for %v, in a batch of %d", got.at, got.reply.Queue, got.reply.BatchSize)
			}
			pending.Leave()
		})
	}
}

// A runner rests once when it has had nothing to do for a while, and again after its next batch or call.
func TestAnIdleRunnerRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := config(r)
		var rests atomic.Int32
		c.Rest = func(int) { rests.Add(1) }
		b := start(t, c)
		expect := func(want int32) {
			t.Helper()
			synctest.Wait()
			if got := rests.Load(); got != want {
				t.Errorf("the runner has rested %d times, want %d", got, want)
			}
		}
		expect(0)
		time.Sleep(time.Hour) // nothing is left of no batch, but Setup may have left something
		expect(1)
		for id := range 3 { // less than restAfter lies between them
			expectResult(t, <-submit(b, t.Context(), entry{"s", id}), id)
			time.Sleep(time.Millisecond)
		}
		expect(1)
		time.Sleep(time.Hour)
		expect(2)
		if err := b.OnEachRunner(func(int) error { return nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		expect(3)
	})
}

func TestDifferentShapesDoNotShareABatch(t *testing.T) {
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

func TestMaxWaitCountsFromTheOldestItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := config(r)
		c.MaxBatchSize = 3
		b := start(t, c)
		first := submit(b, t.Context(), entry{"s", 1})
		time.Sleep(900 * time.Millisecond)
		second := submit(b, t.Context(), entry{"s", 2})
		if got := <-first; got.at != time.Second || got.reply.Queue != time.Second {
			t.Errorf("the first Submit returned after %v, the item was queued for %v", got.at, got.reply.Queue)
		}
		if got := <-second; got.at != 100*time.Millisecond {
			t.Errorf("the second Submit returned after %v", got.at)
		}
		expectIDs(t, r, []int{1, 2})
	})
}

func TestABatchThatIsOverdueStartsWhenTheRunnerIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		_ = submit(b, t.Context(), entry{"s", 1})
		_ = submit(b, t.Context(), entry{"s", 2})
		lone := submit(b, t.Context(), entry{"s", 3})
		if got := <-lone; got.err != nil || got.reply.Queue != time.Minute {
			t.Errorf("got %v, queued for %v", got.err, got.reply.Queue)
		}
	})
}

// In the Sanic demo, the timer of an item that left in a full batch fires on an empty queue and stops its runner.
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

func TestALoneItemDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := config(r)
		c.FixedWait = false
		b := start(t, c)
		got := <-submit(b, t.Context(), entry{"s", 1})
		expectResult(t, got, 1)
		if got.at != 0 {
			t.Errorf("returned after %v", got.at)
		}
	})
}

func TestABatchWaitsForExpectedArrivals(t *testing.T) {
	type arrival = *batch.Arrival[string, entry, int]
	holding := func(d, hold time.Duration) func(arrival) {
		return func(a arrival) { a.Expect(time.Now().Add(d), time.Now().Add(hold)) }
	}
	in := func(d time.Duration) func(arrival) { return holding(d, time.Hour) }
	const ms = time.Millisecond
	tests := []struct {
		name  string
		first func(arrival) // before the item is submitted
		then  func(arrival) // 200 ms later
		want  time.Duration // until Submit returns
	}{
		{"that said nothing", nil, nil, 0},
		{"until they are late", in(300 * ms), nil, 300 * ms},
		{"that are late already", in(-1 * ms), nil, 0},
		{"within MaxWait", in(1000 * ms), nil, 1000 * ms},
		{"not beyond MaxWait", in(1001 * ms), nil, 0},
		{"until they leave", in(700 * ms), func(a arrival) { a.Leave() }, 200 * ms},
		{"longer if they are slow", in(300 * ms), in(250 * ms), 450 * ms},
		{"less long if they are fast", in(700 * ms), in(50 * ms), 250 * ms},
		{"until they can't come in time", in(300 * ms), in(time.Hour), 200 * ms},
		{"while that holds", holding(700*ms, 300*ms), nil, 300 * ms},
		{"while it still holds", holding(700*ms, 300*ms), holding(500*ms, 300*ms), 500 * ms},
		{"until it holds no longer", holding(700*ms, 500*ms), holding(500*ms, 100*ms), 300 * ms},
		{"not if they hold long and come late", holding(1001*ms, 300*ms), nil, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				c := config(r)
				c.FixedWait = false
				b := start(t, c)
				arrival := b.Arrive()
				defer arrival.Leave()
				if test.first != nil {
					test.first(arrival)
				}
				item := submit(b, t.Context(), entry{"s", 1})
				if test.then != nil {
					time.Sleep(200 * time.Millisecond)
					test.then(arrival)
				}
				got := <-item
				expectResult(t, got, 1)
				if got.at != test.want {
					t.Errorf("returned after %v, want %v", got.at, test.want)
				}
			})
		})
	}
}

func TestNewArrivalsDoNotExtendMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(&recorder{})
		c.FixedWait = false
		b := start(t, c)
		expect := func() {
			arrival := b.Arrive()
			arrival.Expect(time.Now().Add(310*time.Millisecond), forever)
			t.Cleanup(arrival.Leave)
		}
		expect()
		item := submit(b, t.Context(), entry{"s", 1})
		for range 4 {
			time.Sleep(300 * time.Millisecond)
			expect()
		}
		// The arrival after 900 ms is expected after 1,210 ms, which is too late; the one before after 910 ms.
		if got := <-item; got.err != nil || got.at != 910*time.Millisecond {
			t.Errorf("got %v after %v", got.err, got.at)
		}
	})
}

func TestAnArrivalEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(&recorder{})
		c.FixedWait = false
		b := start(t, c)
		arrival := b.Arrive()
		_, err := arrival.Submit(t.Context(), entry{"s", 1})
		if err != nil {
			t.Fatal(err)
		}
		arrival.Leave()
		arrival.Leave()
		if got := <-submit(b, t.Context(), entry{"s", 2}); got.err != nil || got.at != 0 {
			t.Errorf("after Leave: got %v after %v", got.err, got.at)
		}
	})
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		var returned []<-chan submission
		for id := range 5 { // 0 and 1 run, the others wait
			if err := b.Admissible(t.Context()); err != nil {
				t.Errorf("before item %d was submitted: %v", id, err)
			}
			returned = append(returned, submit(b, t.Context(), entry{"s", id}))
		}
		if err := b.Admissible(t.Context()); !errors.Is(err, batch.ErrFull) {
			t.Errorf("with three waiting items: %v", err)
		}
		if got := <-submit(b, t.Context(), entry{"s", 5}); !errors.Is(got.err, batch.ErrFull) || got.at != 0 {
			t.Errorf("the sixth item: got %v after %v", got.err, got.at)
		}
		for id, a := range returned {
			expectResult(t, <-a, id)
		}
	})
}

// An item that was admitted has its place while it is prepared, and can't be refused afterwards.
func TestAdmittedItemsHaveAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.FixedWait = false
		b := start(t, c)
		running := submit(b, t.Context(), entry{"s", 0})
		type arrival = *batch.Arrival[string, entry, int]
		var admitted []arrival
		for range 3 {
			a := b.Arrive()
			for range 2 { // a second Admit takes no second place
				if err := a.Admit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			admitted = append(admitted, a)
		}
		for name, err := range map[string]error{
			"Admit":      b.Arrive().Admit(t.Context()),
			"Submit":     (<-submit(b, t.Context(), entry{"s", 9})).err,
			"Admissible": b.Admissible(t.Context()),
		} {
			if !errors.Is(err, batch.ErrFull) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if reply, err := admitted[0].Submit(t.Context(), entry{"s", 1}); err != nil || reply.Queue != time.Minute {
			t.Errorf("an admitted item: got %v, queued for %v", err, reply.Queue)
		}
		expectResult(t, <-running, 0)
		admitted[1].Leave() // and with it the place
		admitted[1].Leave()
		expectResult(t, <-submit(b, t.Context(), entry{"s", 2}), 2)
		left := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(left)
		if _, err := admitted[2].Submit(ctx, entry{"s", 3}); !errors.Is(err, left) {
			t.Errorf("a cancelled item: got %v", err)
		}
		for range 3 { // all places are free again
			if err := b.Arrive().Admit(t.Context()); err != nil {
				t.Error(err)
			}
		}
		b.Close()
		if err := b.Arrive().Admit(t.Context()); !errors.Is(err, batch.ErrClosed) {
			t.Errorf("after Close: got %v", err)
		}
	})
}

// The batches take a minute each, so the queue drains by two items a minute.
func TestItemsThatWouldBeLateAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxQueueSize = 9
		b := start(t, c)
		within := func(limit time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			return b.Admissible(ctx)
		}
		if err := within(time.Nanosecond); err != nil {
			t.Errorf("an empty queue: got %v", err)
		}
		var last <-chan submission
		for id := range 10 {
			last = submit(b, t.Context(), entry{"s", id})
			if err := within(time.Nanosecond); err != nil && id < 2 {
				t.Errorf("before anything was measured, with %d items: got %v", id+1, err)
			}
		}
		time.Sleep(90 * time.Second) // the first batch has run, the second is running, six items wait
		// They take three minutes to leave the queue, and the item's own batch takes one.
		if err := within(5 * time.Minute); err != nil {
			t.Errorf("five minutes: got %v", err)
		}
		err := within(3 * time.Minute)
		var busy *batch.BusyError
		if !errors.Is(err, batch.ErrLate) || !errors.As(err, &busy) || busy.Drain < 2*time.Minute || busy.Drain > 4*time.Minute {
			t.Errorf("three minutes: got %v, %+v", err, busy)
		}
		if err := b.Admissible(t.Context()); err != nil {
			t.Errorf("without a deadline: got %v", err)
		}
		expectResult(t, <-last, 9)
		if err := within(time.Nanosecond); err != nil {
			t.Errorf("when the queue is empty again: got %v", err)
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
		if got := <-waiting; !errors.Is(got.err, left) || got.at != 0 {
			t.Errorf("the cancelled item: got %v after %v", got.err, got.at)
		}
		last := submit(b, t.Context(), entry{"s", 5}) // gets the place of the cancelled item
		expectResult(t, <-last, 5)
		if got := <-submit(b, ctx, entry{"s", 6}); !errors.Is(got.err, left) {
			t.Errorf("an item that was cancelled before Submit: got %v", got.err)
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
		got := <-submit(b, ctx, entry{"s", 2})
		if !errors.Is(got.err, context.DeadlineExceeded) || got.at != 10*time.Second {
			t.Errorf("the expired item: got %v after %v", got.err, got.at)
		}
		<-busy
		time.Sleep(time.Hour)
		expectIDs(t, r, []int{0, 1})
	})
}

// A doneLate is a context whose Err is set before its Done channel is closed, as Submit may be scheduled later than the
// runner.
type doneLate struct {
	context.Context
	done atomic.Bool
}

func (d *doneLate) Err() error {
	if d.done.Load() {
		return context.Canceled
	}
	return nil
}

func TestAnItemCancelledJustBeforeItsBatchStartsIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		c := config(r)
		c.MaxBatchSize = 3
		b := start(t, c)
		ctx := &doneLate{Context: t.Context()}
		cancelled := submit(b, ctx, entry{"s", 1})
		other := submit(b, t.Context(), entry{"s", 2})
		ctx.done.Store(true)
		if got := <-cancelled; !errors.Is(got.err, context.Canceled) || isRunError(got.err) {
			t.Errorf("the cancelled item: got %v", got.err)
		}
		expectResult(t, <-other, 2)
		expectIDs(t, r, []int{2})
		onlyItem := &doneLate{Context: t.Context()}
		cancelled = submit(b, onlyItem, entry{"s", 3})
		onlyItem.done.Store(true)
		if got := <-cancelled; !errors.Is(got.err, context.Canceled) {
			t.Errorf("the only item of a batch: got %v", got.err)
		}
		expectIDs(t, r, []int{2})
	})
}

func TestCancellingARunningItemReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		b := start(t, config(r))
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := submit(b, ctx, entry{"s", 0})
		other := submit(b, t.Context(), entry{"s", 1})
		time.Sleep(time.Second)
		cancel()
		if got := <-cancelled; !errors.Is(got.err, context.Canceled) || got.at != time.Second {
			t.Errorf("got %v after %v", got.err, got.at)
		}
		expectResult(t, <-other, 1)
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
		"too few results":  {func() ([]int, error) { return []int{1}, nil }, func(err error) bool { return err != nil }},
		"too many results": {func() ([]int, error) { return make([]int, 3), nil }, func(err error) bool { return err != nil }},
	}
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				c := config(r)
				c.MaxQueueSize = 4
				c.Run = synchronous(func(items []entry) ([]int, error) {
					if items[0].shape == "bad" {
						return failure.fails()
					}
					return r.run(items)
				})
				b := start(t, c)
				before := submit(b, t.Context(), entry{"good", 1})
				bad := submit(b, t.Context(), entry{"bad", 2})
				alsoBad := submit(b, t.Context(), entry{"bad", 3})
				for _, returned := range []<-chan submission{bad, alsoBad} {
					if got := <-returned; !failure.check(got.err) || !isRunError(got.err) {
						t.Errorf("an item of the failed batch got %v", got.err)
					}
				}
				expectResult(t, <-before, 1)
				expectResult(t, <-submit(b, t.Context(), entry{"good", 4}), 4)
			})
		})
	}
}

// A batch can fail while its completer waits for the results.
func TestAFailedCompletionFailsAlone(t *testing.T) {
	broken := errors.New("broken")
	for name, complete := range map[string]func() ([]int, error){
		"error": func() ([]int, error) { return nil, broken },
		"panic": func() ([]int, error) { panic(broken) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config(&recorder{})
				run := c.Run
				c.Run = func(runner int, items []entry) (func() ([]int, error), error) {
					if items[0].shape == "bad" {
						return complete, nil
					}
					return run(runner, items)
				}
				b := start(t, c)
				bad := submit(b, t.Context(), entry{"bad", 1})
				good := submit(b, t.Context(), entry{"good", 2})
				got := <-bad
				var p *batch.PanicError
				if !errors.Is(got.err, broken) && !errors.As(got.err, &p) || !isRunError(got.err) {
					t.Errorf("an item of the failed batch got %v", got.err)
				}
				expectResult(t, <-good, 2)
			})
		})
	}
}

// The other errors of Submit are distinct from those of Run, whatever Run returns.
func TestOnlyAFailedBatchIsARunError(t *testing.T) {
	cause := errors.New("the client left")
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxBatchSize, c.MaxQueueSize, c.MaxWait = 1, 1, 0
		b := start(t, c)
		expect := func(name string, got submission, want error) {
			t.Helper()
			if !errors.Is(got.err, want) || isRunError(got.err) {
				t.Errorf("%s: got %v, want %v and no RunError", name, got.err, want)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		running := submit(b, ctx, entry{"s", 1})
		waiting := submit(b, ctx, entry{"s", 2})
		expect("full", <-submit(b, t.Context(), entry{"s", 3}), batch.ErrFull)
		cancel(cause)
		expect("cancelled while running", <-running, cause)
		expect("cancelled while waiting", <-waiting, cause)
		expect("cancelled before", <-submit(b, ctx, entry{"s", 4}), cause)
		b.Close()
		expect("closed", <-submit(b, t.Context(), entry{"s", 5}), batch.ErrClosed)
	})
	for _, returned := range []error{batch.ErrFull, batch.ErrClosed, context.Canceled} {
		synctest.Test(t, func(t *testing.T) {
			c := config(&recorder{})
			c.Run = synchronous(func([]entry) ([]int, error) { return nil, returned })
			got := <-submit(start(t, c), t.Context(), entry{"s", 1})
			var runError *batch.RunError
			if !errors.As(got.err, &runError) || !errors.Is(runError.Err, returned) || !errors.Is(got.err, returned) {
				t.Errorf("Run returned %v, Submit %v", returned, got.err)
			}
		})
	}
}

// Run returns at once, and the results take a minute. The second batch starts while the first is being completed, the
// third one only afterwards.
func TestTheNextBatchStartsDuringCompletion(t *testing.T) {
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
		var returned []<-chan submission
		for id := range 3 {
			returned = append(returned, submit(b, t.Context(), entry{"s", id}))
		}
		for id, returned := range returned {
			got := <-returned
			expectResult(t, got, id)
			if want := time.Duration(id+1) * time.Minute; got.at != want {
				t.Errorf("item %d: returned after %v, want %v", id, got.at, want)
			}
		}
		if want := []time.Duration{0, 0, time.Minute}; !slices.Equal(starts, want) {
			t.Errorf("the batches started at %v, want %v", starts, want)
		}
	})
}

func TestRunnersRunAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxBatchSize, c.MaxQueueSize, c.MaxWait, c.Runners = 1, 9, 0, 3
		b := start(t, c)
		var returned []<-chan submission
		for id := range 6 {
			returned = append(returned, submit(b, t.Context(), entry{"s", id}))
		}
		for id, returned := range returned {
			got := <-returned
			expectResult(t, got, id)
			if want := time.Duration(1+id/3) * time.Minute; got.at != want {
				t.Errorf("item %d: returned after %v, want %v", id, got.at, want)
			}
		}
	})
}

func TestCloseRunsAcceptedItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{takes: time.Minute}
		c := config(r)
		c.MaxWait = time.Hour
		b := start(t, c)
		var returned []<-chan submission
		for id := range 5 {
			returned = append(returned, submit(b, t.Context(), entry{"s", id}))
		}
		closed := make(chan struct{})
		go func() {
			b.Close()
			close(closed)
		}()
		synctest.Wait()
		if got := <-submit(b, t.Context(), entry{"s", 9}); !errors.Is(got.err, batch.ErrClosed) || got.at != 0 {
			t.Errorf("after Close: got %v after %v", got.err, got.at)
		}
		for id, a := range returned {
			expectResult(t, <-a, id)
		}
		<-closed
		if passed := time.Since(epoch); passed != 3*time.Minute {
			t.Errorf("Close returned at %v: an incomplete batch waited", passed)
		}
	})
}

func TestStopWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(&recorder{})
		c.MaxWait = time.Hour
		b := start(t, c)
		pending := b.Arrive()
		pending.Expect(time.Now().Add(time.Hour), forever)
		waiting := submit(b, t.Context(), entry{"s", 1})
		time.Sleep(time.Minute)
		b.StopWaiting()
		if got := <-waiting; got.err != nil || got.at != time.Minute {
			t.Errorf("the waiting item: got %v after %v", got.err, got.at)
		}
		if reply, err := pending.Submit(t.Context(), entry{"s", 2}); err != nil || reply.Queue != 0 {
			t.Errorf("the later item: got %v, queued for %v", err, reply.Queue)
		}
	})
}

// The end of the bubble also proves that the runners which were set up have ended.
func TestAnErrorOfSetupIsNews(t *testing.T) {
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
			t.Errorf("Setup was called for the runners %v", runners)
		}
	})
}

func TestInvalidConfig(t *testing.T) {
	for name, change := range map[string]func(*batch.Config[string, entry, int]){
		"max batch size": func(c *batch.Config[string, entry, int]) { c.MaxBatchSize = 0 },
		"max queue size": func(c *batch.Config[string, entry, int]) { c.MaxQueueSize = 0 },
		"max wait":       func(c *batch.Config[string, entry, int]) { c.MaxWait = -1 },
		"runners":        func(c *batch.Config[string, entry, int]) { c.Runners = 0 },
		"no run":         func(c *batch.Config[string, entry, int]) { c.Run = nil },
		"no shape":       func(c *batch.Config[string, entry, int]) { c.Shape = nil },
	} {
		c := config(&recorder{})
		change(&c)
		if _, err := batch.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Outside a bubble, many goroutines submit at the same time; the race detector watches.
func TestConcurrentItemsGetTheirOwnResults(t *testing.T) {
	r := &recorder{}
	c := config(r)
	c.MaxBatchSize, c.MaxQueueSize, c.MaxWait, c.FixedWait = 5, 64, time.Millisecond, false
	c.Runners = 2
	b := start(t, c)
	var wg sync.WaitGroup
	for client := range 32 {
		wg.Go(func() {
			for i := range 200 {
				id := client*1000 + i
				reply, err := b.Arrive().Submit(t.Context(), entry{fmt.Sprint(id % 3), id})
				if err != nil || reply.Result != -id {
					t.Errorf("item %d: got result %d, error %v", id, reply.Result, err)
				}
			}
		})
	}
	wg.Wait()
}

// OnEachRunner stops at the first error; a panic becomes a *PanicError, and the runner goes on.
func TestOnEachRunner(t *testing.T) {
	c := config(&recorder{})
	c.Runners = 3
	b := start(t, c)
	why := errors.New("why")
	var called []int
	err := b.OnEachRunner(func(runner int) error {
		called = append(called, runner)
		if runner == 1 {
			return why
		}
		return nil
	})
	if !errors.Is(err, why) || !slices.Equal(called, []int{0, 1}) {
		t.Errorf("got %v after the runners %v", err, called)
	}
	var panicked *batch.PanicError
	if err := b.OnEachRunner(func(int) error { panic("why") }); !errors.As(err, &panicked) || panicked.Value != "why" {
		t.Errorf("got %v", err)
	}
	if err := b.OnEachRunner(func(int) error { return nil }); err != nil {
		t.Error(err)
	}
}
