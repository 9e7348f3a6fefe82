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

// FuzzContract plays a random script of arrivals, submissions, cancellations and failures to a Batcher and to
// the plain model below, and compares every answer, its time, and every batch.
//
// All times of the script are such that no two things happen at the same moment, where the order would be
// anybody's guess: arrivals, submissions and cancellations come at whole milliseconds plus 0, 100 and 200
// microseconds, waits add nanoseconds and forwards add microseconds up to 99.
func FuzzContract(f *testing.F) {
	f.Add([]byte{2, 3, 0, 50, 40, 0, 0, 5, 0, 1, 0, 5, 0, 9, 0, 0, 0})
	f.Add([]byte{3, 4, 1, 90, 10, 1, 3, 1, 0, 0, 3, 30, 2, 4, 0, 7, 1, 0, 60, 0, 3, 3})
	f.Add([]byte{1, 1, 1, 0, 200, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 0})
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
	policy      batch.WaitPolicy
	steps       []step
}

// A step is the life of one item as its client wishes it.
type step struct {
	shape             string
	arrives, submits  time.Duration // since the start
	cancels           time.Duration // 0: never
	fails             bool          // its batch fails
	givesUpBeforehand bool          // leaves instead of submitting
}

const (
	cancelOffset = 200 * time.Microsecond
	submitOffset = 100 * time.Microsecond
)

func readScript(data []byte) (script, bool) {
	const head, size = 5, 4
	if len(data) < head+size || len(data) > head+40*size {
		return script{}, false
	}
	s := script{
		size: 1 + int(data[0]%4), queue: 1 + int(data[1]%6), policy: batch.WaitPolicy(data[2] % 2),
		wait:  time.Duration(data[3])*time.Millisecond + time.Nanosecond,
		takes: time.Duration(data[4])*time.Millisecond + time.Microsecond,
	}
	now := time.Duration(0)
	taken := map[time.Duration]bool{}
	free := func(at time.Duration) time.Duration { // the next millisecond at which nothing else happens
		for taken[at] {
			at += time.Millisecond
		}
		taken[at] = true
		return at
	}
	for data = data[head:]; len(data) >= size; data = data[size:] {
		now += time.Duration(1+data[0]%32) * time.Millisecond
		st := step{
			shape:             string('a' + rune(data[1]%3)),
			fails:             data[1]&0x80 != 0,
			givesUpBeforehand: data[1]&0x70 == 0x70,
			arrives:           free(now),
			submits:           free(now + time.Duration(data[2]%64)*time.Millisecond + submitOffset),
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

// What the model expects: for each step its answer, and all batches.
type expectation struct {
	answers []expected
	batches []ran
}

type expected struct {
	err error // nil: its result
	at  time.Duration
}

// expect is the plain model: it goes from event to event and applies the contract's sentences by looking at all
// items each time.
func (s *script) expect() expectation {
	const (
		absent = iota
		waiting
		running
		answered
	)
	e := expectation{answers: make([]expected, len(s.steps))}
	state := make([]int, len(s.steps))
	accepted := make([]time.Duration, len(s.steps))
	order := []int{} // of acceptance
	var batchItems []int
	busyUntil := time.Duration(-1)
	never := time.Duration(1<<63 - 1)

	answer := func(i int, err error, at time.Duration) {
		state[i] = answered
		e.answers[i] = expected{err, at}
	}
	// launchAt is when a shape's oldest items can be launched, were the runner free.
	launchAt := func(items []int, now time.Duration) time.Duration {
		if len(items) >= s.size {
			return now
		}
		limit := accepted[items[0]] + s.wait
		if s.policy == batch.Fixed {
			return max(limit, now)
		}
		latest := now // until when company is awaited
		for _, st := range s.steps {
			if st.arrives <= now && now < st.submits {
				latest = max(latest, st.arrives+s.wait)
			}
		}
		return max(min(limit, latest), now)
	}
	now := time.Duration(0)
	for {
		// Launch what can be launched now: of the candidates the one with the oldest item.
		next := never
		if busyUntil < 0 {
			byShape := map[string][]int{}
			var shapes []string // by oldest item
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
				at := launchAt(items, now)
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
				if at > now && (state[i] == absent || at == st.cancels && state[i] != answered) {
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
					answer(i, err, now)
				}
			}
			busyUntil = -1
		}
		for i, st := range s.steps {
			switch {
			case now == st.submits && state[i] == absent:
				count := 0
				for _, other := range state {
					if other == waiting {
						count++
					}
				}
				switch {
				case st.givesUpBeforehand:
					answer(i, nil, now)
				case count >= s.queue:
					answer(i, batch.ErrFull, now)
				default:
					state[i] = waiting
					accepted[i] = now
					order = append(order, i)
				}
			case now == st.cancels && (state[i] == waiting || state[i] == running):
				answer(i, errCancelled, now)
			}
		}
	}
}

// play lets a Batcher live through the script and compares.
func (s *script) play(t *testing.T, want expectation) {
	r := &recorder{takes: s.takes}
	r.fails = func(items []entry) error {
		if slices.ContainsFunc(items, func(e entry) bool { return s.steps[e.id].fails }) {
			return errFailed
		}
		return nil
	}
	b, err := batch.New(batch.Config[string, entry, int]{
		MaxBatchSize: s.size, MaxQueueSize: s.queue, MaxWait: s.wait, WaitPolicy: s.policy,
		Shape: func(e entry) string { return e.shape }, Run: atOnce(r.run), Runners: 1,
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
			time.Sleep(st.submits - st.arrives)
			if st.givesUpBeforehand {
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
		if !errors.Is(have.err, want.answers[i].err) || have.at != want.answers[i].at {
			t.Errorf("item %d: %v at %v instead of %v at %v", i, have.err, have.at, want.answers[i].err, want.answers[i].at)
		}
	}
	if !slices.EqualFunc(r.batches, want.batches, func(x, y ran) bool {
		return x.start == y.start && slices.Equal(x.items, y.items)
	}) {
		t.Errorf("batches\n%v instead of\n%v", r.batches, want.batches)
	}
}
