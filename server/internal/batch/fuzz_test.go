package batch_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
)

// FuzzContract runs a random script of arrivals, submissions, cancellations and failures through a Batcher and through
// the plain model below, and compares every reply, its time, and every batch.
//
// No two events of a script happen at the same moment, since their order would be undefined: arrivals, submissions,
// cancellations and expectations are at whole milliseconds plus 0, 100, 200 and 300 microseconds, waits add nanoseconds,
// and runs add up to 99 microseconds.
func FuzzContract(f *testing.F) {
	f.Add([]byte{2, 3, 0, 50, 40, 0, 0, 5, 0, 20, 1, 0, 5, 0, 0, 9, 0, 0, 0, 129})
	f.Add([]byte{3, 4, 1, 90, 10, 1, 3, 1, 0, 7, 0, 3, 30, 2, 130, 4, 0, 7, 1, 0, 0, 60, 0, 3, 3})
	f.Add([]byte{1, 1, 1, 0, 200, 0, 0, 0, 0, 128, 1, 0, 0, 0, 0, 1, 9, 9, 0, 250})
	f.Add([]byte{4, 2, 0, 100, 5, 3, 0, 40, 1, 170, 0, 0, 10, 1, 30, 0, 0, 60, 2, 160, 1, 0, 2, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, ok := readScript(data)
		if !ok {
			return
		}
		want := s.expect()
		synctest.Test(t, func(t *testing.T) { s.play(t, want) })
	})
}

type script struct {
	size, queue int
	wait, takes time.Duration
	fixedWait   bool
	steps       []step
}

// A step is what the client of one item does.
type step struct {
	shape            string
	arrives, submits time.Duration // since the start
	expects          time.Duration // the item's Expect, called when it arrives; 0: none
	admits           bool          // asks for its place when it arrives
	cancels          time.Duration // 0: never
	fails            bool          // its batch fails
	leaves           bool          // leaves instead of submitting
}

const (
	cancelOffset = 200 * time.Microsecond
	submitOffset = 100 * time.Microsecond
	expectOffset = 300 * time.Microsecond
)

func readScript(data []byte) (script, bool) {
	const head, size = 5, 5
	if len(data) < head+size || len(data) > head+40*size {
		return script{}, false
	}
	s := script{
		size: 1 + int(data[0]%4), queue: 1 + int(data[1]%6), fixedWait: data[2]%2 == 1,
		wait:  time.Duration(data[3])*time.Millisecond + time.Nanosecond,
		takes: time.Duration(data[4])*time.Millisecond + time.Microsecond,
	}
	now := time.Duration(0)
	taken := map[time.Duration]bool{}
	free := func(at time.Duration) time.Duration { // the next millisecond without another event
		for taken[at] {
			at += time.Millisecond
		}
		taken[at] = true
		return at
	}
	for data = data[head:]; len(data) >= size; data = data[size:] {
		now += time.Duration(1+data[0]%32) * time.Millisecond
		st := step{
			shape:   string('a' + rune(data[1]%3)),
			fails:   data[1]&0x80 != 0,
			leaves:  data[1]&0x70 == 0x70,
			arrives: free(now),
			submits: free(now + time.Duration(data[2]%64)*time.Millisecond + submitOffset),
		}
		st.admits = data[4]&0x80 != 0
		if delay := time.Duration(data[4] & 0x7f); delay > 0 {
			st.expects = st.arrives + delay*time.Millisecond + expectOffset
		}
		if data[3]%4 == 0 {
			st.cancels = free(st.submits - submitOffset + time.Duration(data[3])*time.Millisecond + cancelOffset)
		}
		s.steps = append(s.steps, st)
	}
	return s, true
}

var (
	errCancelled = errors.New("cancelled")
	errFailed    = errors.New("failed")
)

// An expectation is the reply to each step's Submit, and all batches.
type expectation struct {
	replies []expected
	batches []ran
}

type expected struct {
	err error // nil: the item's result
	at  time.Duration
}

// expect is the plain model. It goes from event to event and applies the contract to all items each time.
func (s *script) expect() expectation {
	const (
		absent = iota
		admitted
		waiting
		running
		done
	)
	e := expectation{replies: make([]expected, len(s.steps))}
	state := make([]int, len(s.steps))
	accepted := make([]time.Duration, len(s.steps))
	order := []int{} // the items in order of acceptance
	var batchItems []int
	busyUntil := time.Duration(-1)
	never := time.Duration(1<<63 - 1)

	reply := func(i int, err error, at time.Duration) {
		state[i] = done
		e.replies[i] = expected{err, at}
	}
	// dueAt returns when a shape's oldest items are due.
	dueAt := func(items []int, now time.Duration) time.Duration {
		if len(items) >= s.size {
			return now
		}
		limit := accepted[items[0]] + s.wait
		if s.fixedWait {
			return max(limit, now)
		}
		latest := now // when the last item that can be awaited is expected
		for i, st := range s.steps {
			if st.arrives <= now && now < st.submits && st.expects <= limit && state[i] != done {
				latest = max(latest, st.expects)
			}
		}
		return latest
	}
	now := time.Duration(0)
	for {
		// Launch the due batch with the oldest item.
		next := never
		if busyUntil < 0 {
			byShape := map[string][]int{}
			var shapes []string // sorted by their oldest items
			for _, i := range order {
				if state[i] == waiting {
					if byShape[s.steps[i].shape] == nil {
						shapes = append(shapes, s.steps[i].shape)
					}
					byShape[s.steps[i].shape] = append(byShape[s.steps[i].shape], i)
				}
			}
			launched := false
			for _, shape := range shapes {
				items := byShape[shape]
				at := dueAt(items, now)
				if at > now {
					next = min(next, at)
					continue
				}
				batchItems = items[:min(len(items), s.size)]
				var entries []entry
				for _, i := range batchItems {
					state[i] = running
					entries = append(entries, entry{shape, i})
				}
				e.batches = append(e.batches, ran{start: now, items: entries})
				busyUntil = now + s.takes
				launched = true
				break
			}
			if launched {
				continue
			}
		} else {
			next = busyUntil
		}
		for i, st := range s.steps {
			for _, at := range []time.Duration{st.arrives, st.submits, st.cancels} {
				if at > now && (state[i] == absent || state[i] == admitted || at == st.cancels && state[i] != done) {
					next = min(next, at)
				}
			}
		}
		if next == never {
			return e
		}
		now = next
		if now == busyUntil {
			var err error
			for _, i := range batchItems {
				if s.steps[i].fails {
					err = errFailed
				}
			}
			for _, i := range batchItems {
				if state[i] == running {
					reply(i, err, now)
				}
			}
			busyUntil = -1
		}
		for i, st := range s.steps {
			places := 0
			for _, other := range state {
				if other == waiting || other == admitted {
					places++
				}
			}
			switch {
			case now == st.arrives && state[i] == absent && st.admits:
				if places >= s.queue {
					reply(i, batch.ErrFull, now)
				} else {
					state[i] = admitted
				}
			case now == st.submits && (state[i] == absent || state[i] == admitted):
				switch {
				case st.leaves:
					reply(i, nil, now)
				case places >= s.queue && state[i] == absent:
					reply(i, batch.ErrFull, now)
				default:
					state[i] = waiting
					accepted[i] = now
					order = append(order, i)
				}
			case now == st.cancels && (state[i] == waiting || state[i] == running):
				reply(i, errCancelled, now)
			}
		}
	}
}

// play runs the script through a Batcher and compares.
func (s *script) play(t *testing.T, want expectation) {
	r := &recorder{takes: s.takes}
	r.fails = func(items []entry) error {
		if slices.ContainsFunc(items, func(e entry) bool { return s.steps[e.id].fails }) {
			return errFailed
		}
		return nil
	}
	b, err := batch.New(batch.Config[string, entry, int]{
		MaxBatchSize: s.size, MaxQueueSize: s.queue, MaxWait: s.wait, FixedWait: s.fixedWait,
		Shape: func(e entry) string { return e.shape }, Run: synchronous(r.run), Runners: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]expected, len(s.steps))
	done := make(chan int)
	for i, st := range s.steps {
		go func() {
			defer func() { done <- i }()
			time.Sleep(st.arrives)
			arrival := b.Arrive()
			if st.admits {
				if err := arrival.Admit(t.Context()); err != nil {
					got[i] = expected{err, time.Since(epoch)}
					return
				}
			}
			if st.expects > 0 {
				arrival.Expect(epoch.Add(st.expects), forever)
			}
			time.Sleep(st.submits - st.arrives)
			if st.leaves {
				arrival.Leave()
				got[i] = expected{nil, time.Since(epoch)}
				return
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if st.cancels > 0 {
				timer := time.AfterFunc(st.cancels-st.submits, func() { cancel(errCancelled) })
				defer timer.Stop()
			}
			reply, err := arrival.Submit(ctx, entry{st.shape, i})
			got[i] = expected{err, time.Since(epoch)}
			if err == nil && reply.Result != -i {
				t.Errorf("item %d got the result of item %d", i, -reply.Result)
			}
		}()
	}
	for range s.steps {
		<-done
	}
	b.Close()
	for i, have := range got {
		if !errors.Is(have.err, want.replies[i].err) || have.at != want.replies[i].at {
			t.Errorf("item %d: got %v at %v, want %v at %v", i, have.err, have.at, want.replies[i].err, want.replies[i].at)
		}
		if got, want := isRunError(have.err), errors.Is(have.err, errFailed); got != want {
			t.Errorf("item %d: %v is a RunError: %v, want %v", i, have.err, got, want)
		}
	}
	if !slices.EqualFunc(r.batches, want.batches, func(x, y ran) bool {
		return x.start == y.start && slices.Equal(x.items, y.items)
	}) {
		t.Errorf("got batches\n%v\nwant\n%v", r.batches, want.batches)
	}
}
