package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/servable"
)

// schedules is how many random schedules TestRandomSchedules runs.
const schedules = 4000

// Whatever the order of reloads, refreshes, unloads, requests, changes of the folder and the close, whether loads succeed,
// fail, take too long, ignore their cancellation, hang or are overtaken, whether versions fail while they serve, and whether
// candidates are held back, promoted and rolled back, the contract holds.
func TestRandomSchedules(t *testing.T) {
	for seed := range uint64(schedules) {
		synctest.Test(t, func(t *testing.T) {
			s := newSchedule(t, seed)
			s.run()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// A schedule is one random history of a model.
type schedule struct {
	t      *testing.T
	random *rand.Rand
	src    *source
	fakes  *fakes
	model  *lifecycle.Model
	calls  sync.WaitGroup

	mu sync.Mutex
	// Whether a version has been ready since the last Unload, so that one must be ready now.
	mustBeReady bool
	unloads     int
	// Whether no Reload has been called since the last Unload, so that nothing may be ready.
	mustBeUnready bool
}

func newSchedule(t *testing.T, seed uint64) *schedule {
	s := &schedule{t: t, random: rand.New(rand.NewPCG(seed, 0))}
	s.src = &source{name: "net", single: s.random.IntN(4) == 0}
	s.fakes = &fakes{plan: s.load}
	s.model = lifecycle.New(s.src, s.fakes, 3*time.Second, zerolog.Nop())
	if s.random.IntN(2) == 0 {
		s.model.HoldCandidates()
	}
	s.change()
	return s
}

// load goes as the content of the version's file says, so that equal files behave equally.
func (s *schedule) load(ctx context.Context, r loader.Request) error {
	var kind, duration int
	if _, err := fmt.Sscanf(r.Version.Fingerprint, "kind %d, %d ms", &kind, &duration); err != nil {
		return err
	}
	delay := time.Duration(duration) * time.Millisecond
	switch kind {
	case 0: // fails
		if err := takes(delay)(ctx, r); err != nil {
			return err
		}
		return errBad
	case 1: // hangs until it is overtaken
		<-ctx.Done()
		return context.Cause(ctx)
	case 2: // ignores that it was overtaken
		time.Sleep(delay)
		return nil
	case 8: // hangs for longer than anyone waits
		time.Sleep(time.Hour + delay)
		return nil
	}
	return takes(delay)(ctx, r)
}

// change puts other files or settings into the folder.
func (s *schedule) change() {
	var versions []repository.Version
	// Few contents, so that files come back unchanged.
	content := func() string {
		kind := s.random.IntN(9)
		if kind == 8 && s.random.IntN(2) > 0 {
			kind = 3
		}
		return fmt.Sprintf("kind %d, %d ms", kind, s.random.IntN(3)*400)
	}
	if s.src.single {
		versions = append(versions, file(0, content()))
	} else {
		for number := 5; number > 0; number-- {
			if s.random.IntN(2) == 0 {
				versions = append(versions, file(number, content()))
			}
		}
	}
	s.src.set(versions...)
	if len(versions) == 0 || s.random.IntN(10) == 0 {
		s.src.fail(errors.New("nothing there"))
	}
	s.src.setSettings([]string{"", "versions: latest 2", "versions: [1, 3]", "quality: 80", "nonsense: 1"}[s.random.IntN(5)])
}

func (s *schedule) run() {
	for range 25 {
		s.step()
		time.Sleep(time.Duration(s.random.IntN(5)) * 100 * time.Millisecond)
		s.check()
	}
	s.settle()
	s.mu.Lock()
	s.mustBeReady, s.unloads = false, s.unloads+1
	s.mu.Unlock()
	s.model.Close()
	s.calls.Wait()
	time.Sleep(hangTime)
	synctest.Wait()
	s.check()
	s.fakes.expectAllClosed(s.t)
	if s.model.Ready() {
		s.t.Error("ready after Close")
	}
	for _, status := range s.model.Statuses() {
		if status.State != lifecycle.Unloaded && status.State != lifecycle.Failed {
			s.t.Errorf("after Close a version is %s", status.State)
		}
	}
}

func (s *schedule) step() {
	switch s.random.IntN(13) {
	case 0, 1:
		s.mu.Lock()
		s.mustBeUnready = false
		s.mu.Unlock()
		s.call(s.model.Reload)
	case 2, 3:
		s.call(s.model.Refresh)
	case 4:
		s.unload()
	case 5, 6:
		s.change()
	case 7:
		s.failOne()
	case 8:
		s.call(func() error { return s.model.Promote(lifecycle.AnyLoad) })
	case 9:
		s.call(func() error { return s.model.Rollback(lifecycle.AnyLoad, "rolled back") })
	default:
		s.request(time.Duration(s.random.IntN(10))*100*time.Millisecond, s.random.IntN(7))
	}
}

// call calls f in a goroutine and returns when that waits or has ended, so that calls come in the order of the steps.
func (s *schedule) call(f func() error) {
	s.calls.Go(func() { _ = f() })
	synctest.Wait()
}

func (s *schedule) unload() {
	s.mu.Lock()
	s.mustBeReady, s.unloads = false, s.unloads+1
	s.mu.Unlock()
	switch err := s.model.Unload(); {
	case err == nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mustBeUnready = true
	case !errors.Is(err, lifecycle.ErrNotReady):
		s.t.Error(err)
	}
}

// failOne makes a servable fail, whatever its version's state.
func (s *schedule) failOne() {
	s.fakes.mu.Lock()
	defer s.fakes.mu.Unlock()
	if len(s.fakes.made) == 0 {
		return
	}
	select {
	case s.fakes.made[s.random.IntN(len(s.fakes.made))].failed <- errBad:
	default: // it has failed before
	}
}

// open returns how many servables are open.
func (f *fakes) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := 0
	for _, s := range f.made {
		if s.closed == 0 {
			open++
		}
	}
	return open
}

// request acquires a version, the default by the number 0 and the candidate by 6, holds it for a while and uses it.
func (s *schedule) request(hold time.Duration, number int) {
	s.calls.Go(func() {
		acquire := s.model.Acquire
		if number > 5 {
			acquire = s.model.AcquireCandidate
		} else if number > 0 {
			acquire = func() (lifecycle.Lease, error) { return s.model.AcquireVersion(number) }
		}
		s.mu.Lock()
		mustBeReady, unloads := s.mustBeReady, s.unloads
		s.mu.Unlock()
		lease, err := acquire()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			if number == 0 && mustBeReady && unloads == s.unloads {
				s.t.Error("a model that had a ready version had none")
			}
			return
		}
		time.Sleep(hold)
		if _, err := lease.Process(s.t.Context(), nil, servable.Options{}); err != nil {
			s.t.Error(err)
		}
		lease.Release()
	})
}

// check checks what must hold at any moment.
func (s *schedule) check() {
	s.mu.Lock()
	unloads := s.unloads
	s.mu.Unlock()
	ready := s.model.ReadyVersions()
	numbers := make([]int, len(ready))
	for i, v := range ready {
		numbers[i], _ = strconv.Atoi(v.Version)
	}
	if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
		s.t.Errorf("ready versions %v", numbers)
	}
	ended, candidates := 0, 0
	for _, status := range s.model.Statuses() {
		if status.State == lifecycle.Unloaded || status.State == lifecycle.Failed {
			ended++
		}
		if status.State == lifecycle.Candidate {
			candidates++
		}
		if (status.State == lifecycle.Failed) != (status.Reason != "") {
			s.t.Errorf("%+v", status)
		}
	}
	if candidates > 1 || candidates > len(ready) {
		s.t.Errorf("%d candidates beside the versions %v", candidates, numbers)
	}
	if ended > 20+s.fakes.open() { // a version that failed may still serve
		s.t.Errorf("%d versions that ended are kept", ended)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mustBeUnready && len(ready) > 0 {
		s.t.Errorf("versions %v are ready after Unload, without a Reload", numbers)
	}
	if s.unloads == unloads {
		if len(ready) == 0 && s.mustBeReady {
			s.t.Error("a model that had a ready version has none")
		}
		s.mustBeReady = len(ready) > 0
	}
}

// settle ends hanging loads, puts good files into the folder and checks that a reload makes the wanted ones ready, and
// that a refresh then loads nothing.
func (s *schedule) settle() {
	s.unload()
	versions := []repository.Version{file(4, "kind 3, 400 ms"), file(2, "kind 3, 0 ms")}
	want := []int{2, 4}
	if s.src.single {
		versions, want = []repository.Version{file(0, "kind 3, 0 ms")}, nil
	}
	s.calls.Wait()
	time.Sleep(hangTime)
	s.src.set(versions...)
	s.src.setSettings("versions: latest 2")
	s.mustBeUnready = false
	if err := s.model.Reload(); err != nil {
		s.t.Errorf("a reload of good files: %v", err)
	}
	loads := len(s.fakes.loads())
	if err := s.model.Refresh(); err != nil || len(s.fakes.loads()) != loads {
		s.t.Errorf("a refresh without changes loaded something, or failed: %v", err)
	}
	if want != nil {
		expectReady(s.t, s.model, want...)
	} else if len(s.model.ReadyVersions()) != 1 {
		s.t.Errorf("ready: %v", s.model.ReadyVersions())
	}
}
