package batch_test

import (
	"slices"
	"sync"
	"syscall"
	"testing"
)

func TestARunnerHasOneThread(t *testing.T) {
	const runners, rounds = 2, 3
	var mu sync.Mutex
	var events [runners][]string // what was called for each runner
	var threads [runners][]int   // on which threads Setup and Run were called
	var completers [runners][]int
	var together sync.WaitGroup // holds the batches of a round, so that each runner gets one of them

	c := config(&recorder{})
	c.MaxBatchSize, c.MaxWait, c.Runners = 1, 0, runners
	record := func(runner int, event string) {
		mu.Lock()
		defer mu.Unlock()
		events[runner] = append(events[runner], event)
		threads[runner] = append(threads[runner], syscall.Gettid())
	}
	c.Setup = func(runner int) error {
		record(runner, "setup")
		return nil
	}
	c.Run = func(runner int, items []entry) (func() ([]int, error), error) {
		record(runner, "run")
		together.Done()
		together.Wait()
		return func() ([]int, error) {
			mu.Lock()
			defer mu.Unlock()
			completers[runner] = append(completers[runner], syscall.Gettid())
			return []int{-items[0].id}, nil
		}, nil
	}
	b := start(t, c)
	err := b.OnEachRunner(func(runner int) error {
		events[runner] = append(events[runner], "call")
		threads[runner] = append(threads[runner], syscall.Gettid())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range rounds {
		together.Add(runners)
		var clients sync.WaitGroup
		for id := range runners {
			clients.Go(func() {
				if _, err := b.Arrive().Submit(t.Context(), entry{"s", id}); err != nil {
					t.Error(err)
				}
			})
		}
		clients.Wait()
	}
	b.Close()

	for runner := range runners {
		if want := []string{"setup", "call", "run", "run", "run"}; !slices.Equal(events[runner], want) {
			t.Errorf("runner %d: got calls %v, want %v", runner, events[runner], want)
		}
		thread := threads[runner][0]
		if slices.ContainsFunc(threads[runner], func(other int) bool { return other != thread }) {
			t.Errorf("runner %d was on the threads %v, want one", runner, threads[runner])
		}
		if slices.Contains(completers[runner], thread) {
			t.Errorf("a batch of runner %d was completed on the runner's thread", runner)
		}
	}
	if threads[0][0] == threads[1][0] {
		t.Error("two runners were on one thread")
	}
}
