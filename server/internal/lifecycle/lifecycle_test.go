package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/repository"
)

// Each test is for the sentence of the contract that its name begins with.

func TestRoutingIsByHighestNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, nil, file(7, "c"), file(3, "b"), file(1, "a"))
		expectReady(t, m)
		src.setSettings("versions: [7, 1]")
		must(t, m.Reload())
		expectReady(t, m, 1, 7)
		lease, err := m.AcquireVersion(1)
		must(t, err)
		if lease.Version != "1" || lease.Model() != "net" {
			t.Errorf("acquired version %s of %s", lease.Version, lease.Model())
		}
		lease.Release()
		if _, err := m.AcquireVersion(3); !errors.Is(err, lifecycle.ErrNotReady) {
			t.Errorf("a version that isn't ready: %v", err)
		}
	})
}

func TestLeasesKeepAVersionOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(1, "a"))
		must(t, m.Reload())
		first, err := m.Acquire()
		must(t, err)
		second, err := m.Acquire()
		must(t, err)
		src.set(file(2, "b"), file(1, "a"))
		must(t, m.Reload())
		expectStates(t, m, lifecycle.Draining, lifecycle.Ready)
		first.Release()
		synctest.Wait()
		expectStates(t, m, lifecycle.Draining, lifecycle.Ready)
		if f.made[0].closed != 0 {
			t.Error("closed with a lease")
		}
		second.Release()
		synctest.Wait()
		expectStates(t, m, lifecycle.Unloaded, lifecycle.Ready)
		if f.made[0].closed != 1 {
			t.Error("not closed after the last lease")
		}
	})
}

func TestWantedVersionsOfEachPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(4, "d"), file(2, "b"), file(1, "a"))
		for _, step := range []struct {
			settings string
			want     []int
		}{
			{"", []int{4}}, {"versions: latest 2", []int{2, 4}}, {"versions: [1, 2]", []int{1, 2}},
			{"versions: latest 9", []int{1, 2, 4}}, {"versions: latest", []int{4}},
		} {
			src.setSettings(step.settings)
			must(t, m.Reload())
			expectReady(t, m, step.want...)
		}
		synctest.Wait()
		if f.loading != 0 {
			t.Error("a load is still under way")
		}
	})
}

func TestMissingVersionIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, nil, file(2, "b"), file(1, "a"))
		must(t, m.Reload())
		src.setSettings("versions: [1, 7]")
		if err := m.Reload(); err == nil || !strings.Contains(err.Error(), "version 7 is named in model.yaml but not found") {
			t.Errorf("got %v", err)
		}
		expectReady(t, m, 1)
		src.setSettings("versions: [7]")
		if err := m.Reload(); err == nil {
			t.Error("no error")
		}
		expectReady(t, m, 1) // nothing wanted could take its place
	})
}

func TestLoadsOfTheNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(4, "d"), file(3, "c"), file(2, "b"), file(1, "a"))
		src.setSettings("versions: [1, 3, 4]")
		must(t, m.Reload())
		if got := f.loads(); !slices.Equal(got, []int{4, 3, 1}) {
			t.Errorf("loads %v", got)
		}
	})
}

// A load that takes too long has failed, whether it returns then or hangs. The next older version takes its place.
func TestLoadsHaveATimeLimit(t *testing.T) {
	for name, plan := range map[string]func(context.Context, loader.Request) error{"slow": takes(time.Hour), "hanging": hangs} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _, _ := newModel(t, byContent(map[string]func(context.Context, loader.Request) error{"b": plan}), file(2, "b"), file(1, "a"))
				begin := time.Now()
				err := m.Reload()
				if err == nil || !strings.Contains(err.Error(), "longer than 10m0s (--load-timeout)") || strings.Contains(err.Error(), "can't be stopped") != (name == "hanging") {
					t.Errorf("got %v", err)
				}
				if took := time.Since(begin); took < loadTimeout || took > loadTimeout+10*time.Second {
					t.Errorf("took %v", took)
				}
				expectReady(t, m, 1)
				expectStates(t, m, lifecycle.Failed, lifecycle.Ready)
				time.Sleep(2 * time.Hour) // the load that hung returns, and changes nothing
				expectStates(t, m, lifecycle.Failed, lifecycle.Ready)
			})
		})
	}
}

// Whatever makes the load under way unwanted ends it, even if it hangs: what is wanted instead is ready soon. The call that
// began the load returns the result of the new listing.
func TestNewerVersionsOvertakeALoad(t *testing.T) {
	for _, test := range []struct {
		name string
		then []repository.Version // after version 2, "b", has begun to load beside version 1, "a"
		want int
	}{
		{"a newer version", []repository.Version{file(3, "c"), file(2, "b"), file(1, "a")}, 3},
		{"another file", []repository.Version{file(2, "other"), file(1, "a")}, 2},
		{"a removal", []repository.Version{file(1, "a")}, 1},
	} {
		for how, plan := range map[string]func(context.Context, loader.Request) error{"slow": takes(time.Hour), "hanging": hangs} {
			t.Run(test.name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, src, _ := newModel(t, byContent(map[string]func(context.Context, loader.Request) error{"b": plan}), file(1, "a"))
					must(t, m.Reload())
					src.set(file(2, "b"), file(1, "a"))
					first := make(chan error, 1)
					go func() { first <- m.Reload() }()
					synctest.Wait()
					src.set(test.then...)
					begin := time.Now()
					must(t, m.Refresh())
					if took := time.Since(begin); took > 5*time.Second {
						t.Errorf("took %v", took)
					}
					expectReady(t, m, test.want)
					must(t, <-first)
					if status := m.Statuses()[1]; status.Version != 2 || status.State != lifecycle.Unloaded {
						t.Errorf("the version that was overtaken: %+v", status)
					}
					time.Sleep(2 * time.Hour)
					expectReady(t, m, test.want)
				})
			})
		}
	}
}

// Neither an older version, nor a newer one that has failed, nor a source that can't be read cancels a load.
func TestNewerVersionsOnlyOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, badVersions, file(3, "bad"), file(2, "b"))
		first := make(chan error, 1)
		go func() { first <- m.Reload() }()
		time.Sleep(1500 * time.Millisecond) // version 3 has failed, and version 2 is being loaded
		src.set(file(3, "bad"), file(2, "b"), file(1, "a"))
		second := make(chan error, 1)
		go func() { second <- m.Reload() }()
		synctest.Wait()
		src.fail(errors.New("unreadable"))
		if err := m.Reload(); err == nil {
			t.Error("no error")
		}
		for _, call := range []chan error{first, second} {
			if err := <-call; err == nil {
				t.Error("no error")
			}
		}
		expectReady(t, m, 2)
		for _, status := range m.Statuses() {
			if status.State == lifecycle.Unloaded {
				t.Errorf("a load was cancelled: %+v", m.Statuses())
			}
		}
		if got := f.loads(); got[1] != 2 {
			t.Errorf("loads %v", got)
		}
	})
}

func TestHangingLoadsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, byContent(map[string]func(context.Context, loader.Request) error{"hangs": hangs}), file(1, "a"))
		must(t, m.Reload())
		for number := 2; number < 9; number++ {
			src.set(file(number, "hangs"), file(1, "a"))
			go func() { _ = m.Refresh() }()
			time.Sleep(5 * time.Second)
			expectReady(t, m, 1)
		}
		synctest.Wait()
		if f.most != mostLoads {
			t.Errorf("%d loads at the same time, want %d", f.most, mostLoads)
		}
		statuses := m.Statuses()
		if last := statuses[len(statuses)-1]; last.State != lifecycle.Failed || !strings.Contains(last.Reason, "restart the server") {
			t.Errorf("the last version: %+v", last)
		}
		time.Sleep(2 * time.Hour) // they have returned
		src.set(file(9, "good"), file(1, "a"))
		must(t, m.Refresh())
		expectReady(t, m, 9)
	})
}

func TestOneLoadAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(1, "a"))
		src.setSettings("versions: latest 9")
		for number := 2; number < 6; number++ {
			go func() {
				src.set(file(number, "x"), file(1, "a"))
				_ = m.Reload()
			}()
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if f.most != 1 {
			t.Errorf("%d loads at the same time", f.most)
		}
	})
}

func TestTakeoverHasNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, nil, file(1, "a"))
		must(t, m.Reload())
		src.set(file(2, "b"), file(1, "a"))
		done := make(chan error, 1)
		go func() { done <- m.Reload() }()
		synctest.Wait() // while version 2 is loading
		expectStates(t, m, lifecycle.Ready, lifecycle.Warming)
		expectReady(t, m, 1)
		must(t, <-done)
		expectReady(t, m, 2)
	})
}

// A version whose file was replaced takes over from its earlier self.
func TestTakeoverOfTheSameNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(1, "a"))
		must(t, m.Reload())
		src.set(file(1, "b"))
		must(t, m.Reload())
		expectReady(t, m, 1)
		synctest.Wait()
		expectStates(t, m, lifecycle.Unloaded, lifecycle.Ready)
		if f.made[0].closed != 1 || f.made[1].closed != 0 {
			t.Error("the wrong one was closed")
		}
	})
}

func TestUnchangedVersionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, badVersions, file(2, "bad"), file(1, "a"))
		if err := m.Reload(); !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		for range 3 {
			must(t, m.Refresh())
		}
		if got := f.loads(); !slices.Equal(got, []int{2, 1}) {
			t.Errorf("loads %v", got)
		}
		if err := m.Reload(); !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		if got := f.loads(); !slices.Equal(got, []int{2, 1, 2}) {
			t.Errorf("loads %v: Reload tries the failed version again, and only that", got)
		}
		// Other settings make another version.
		src.setSettings("quality: 80")
		if err := m.Refresh(); !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		if got := f.loads(); !slices.Equal(got, []int{2, 1, 2, 2, 1}) {
			t.Errorf("loads %v", got)
		}
		expectReady(t, m, 1)
	})
}

func TestFailureChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, badVersions, file(1, "a"))
		must(t, m.Reload())
		src.set(file(1, "bad"))
		if err := m.Reload(); !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		expectReady(t, m, 1)
		why := errors.New("no such folder")
		src.fail(why)
		if err := m.Reload(); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		expectReady(t, m, 1)
		expectStates(t, m, lifecycle.Ready, lifecycle.Failed, lifecycle.Failed)
		statuses := m.Statuses()
		if statuses[1].Reason != "bad file" || statuses[2].Reason != "no such folder" || statuses[2].Version != 0 {
			t.Errorf("%+v", statuses)
		}
		if got := m.Counts(); got != (lifecycle.LoadCounts{Succeeded: 1, Failed: 2}) {
			t.Errorf("%+v", got)
		}
	})
}

func TestFailureGivesItsPlaceToAnOlderVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, badVersions, file(4, "bad"), file(3, "c"), file(2, "bad"), file(1, "a"))
		src.setSettings("versions: latest 2")
		if err := m.Reload(); !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		expectReady(t, m, 1, 3)
	})
}

// While nothing is ready yet, Unload ends the load.
func TestUnloadEndsAFirstLoad(t *testing.T) {
	for name, plan := range map[string]func(context.Context, loader.Request) error{"slow": takes(time.Hour), "hanging": hangs} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, src, _ := newModel(t, byContent(map[string]func(context.Context, loader.Request) error{"a": plan}), file(1, "a"))
				done := make(chan error, 1)
				go func() { done <- m.Reload() }()
				synctest.Wait()
				must(t, m.Unload())
				if err := <-done; !errors.Is(err, lifecycle.ErrOvertaken) {
					t.Errorf("got %v", err)
				}
				src.set(file(2, "b"))
				must(t, m.Reload())
				expectReady(t, m, 2)
			})
		})
	}
}

// A version that fails while it serves gives its place to the next older one, and serves until that is ready.
func TestFailingVersionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(2, "b"), file(1, "a"))
		must(t, m.Reload())
		lease, err := m.Acquire()
		must(t, err)
		f.made[0].failed <- errBad
		synctest.Wait() // while version 1 is loading
		expectStates(t, m, lifecycle.Failed, lifecycle.Warming)
		expectReady(t, m, 2)
		time.Sleep(2 * time.Second)
		expectReady(t, m, 1)
		lease.Release()
		synctest.Wait()
		expectStates(t, m, lifecycle.Failed, lifecycle.Ready)
		if f.made[0].closed != 1 || m.Statuses()[0].Reason != "bad file" {
			t.Errorf("closed %d times, %+v", f.made[0].closed, m.Statuses())
		}
		// Only Reload tries it again.
		must(t, m.Refresh())
		expectReady(t, m, 1)
		must(t, m.Reload())
		expectReady(t, m, 2)
		// A version that drains may fail without effect.
		lease, err = m.Acquire()
		must(t, err)
		src.set(file(3, "c"))
		must(t, m.Reload())
		f.made[2].failed <- errBad
		synctest.Wait()
		expectReady(t, m, 3)
		lease.Release()
	})
}

func TestFailingVersionStaysWithoutAnother(t *testing.T) {
	for _, single := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			number := 7
			if single {
				number = 0
			}
			m, src, f := newModel(t, badVersions, file(number, "b"))
			src.single = single
			if !single {
				src.set(file(7, "b"), file(1, "bad"))
			}
			must(t, m.Reload())
			f.made[0].failed <- errBad
			time.Sleep(time.Minute)
			for range 30 { // the history has room for the failed version as long as it serves
				src.fail(errors.New("unreadable"))
				_ = m.Refresh()
			}
			src.fail(nil)
			_ = m.Refresh()
			if len(m.ReadyVersions()) != 1 || m.Statuses()[0].State != lifecycle.Failed || f.made[0].closed != 0 {
				t.Errorf("ready %v, %+v", m.ReadyVersions(), m.Statuses())
			}
			src.set(file(number, "new"))
			must(t, m.Refresh())
			synctest.Wait()
			if len(m.ReadyVersions()) != 1 || f.made[0].closed != 1 {
				t.Errorf("after a new file: ready %v, %+v", m.ReadyVersions(), m.Statuses())
			}
		})
	}
}

func TestReadyModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, _, f := newModel(t, nil, file(1, "a"))
		bad, _, _ := newModel(t, badVersions, file(1, "bad"))
		models := lifecycle.Models{bad, good}
		expect := func(ofAll, ofAny error) {
			t.Helper()
			if err := models.Ready(lifecycle.All); !errors.Is(err, ofAll) {
				t.Errorf("all: got %v, want %v", err, ofAll)
			}
			if err := models.Ready(lifecycle.Any); !errors.Is(err, ofAny) {
				t.Errorf("any: got %v, want %v", err, ofAny)
			}
		}
		expect(lifecycle.ErrNotReady, lifecycle.ErrNotReady)
		must(t, good.Reload())
		_ = bad.Reload()
		expect(lifecycle.ErrNotReady, nil)
		models = lifecycle.Models{good}
		expect(nil, nil)
		f.made[0].sick = errBad
		expect(errBad, errBad)
		var unhealthy *lifecycle.UnhealthyError
		if err := good.Healthy(); !errors.As(err, &unhealthy) || unhealthy.Model != "net" || unhealthy.Version != "1" {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnloadLastsUntilReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(1, "a"))
		if err := m.Unload(); !errors.Is(err, lifecycle.ErrNotReady) {
			t.Errorf("unload of nothing: %v", err)
		}
		must(t, m.Reload())
		must(t, m.Unload())
		expectReady(t, m)
		src.set(file(2, "b"))
		must(t, m.Refresh())
		expectReady(t, m)
		must(t, m.Reload())
		expectReady(t, m, 2)
		if got := f.loads(); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("loads %v", got)
		}
	})
}

func TestOvertakenLoadsNeverBecomeReady(t *testing.T) {
	for name, plan := range map[string]func(context.Context, loader.Request) error{"cancelled": takes(time.Hour), "stubborn": hangs} {
		for _, overtake := range []string{"unload", "close"} {
			t.Run(name+", "+overtake, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, src, f := newModel(t, nil, file(1, "a"))
					must(t, m.Reload())
					f.plan = plan
					src.set(file(2, "b"))
					done := make(chan error, 1)
					go func() { done <- m.Reload() }()
					synctest.Wait()
					want := lifecycle.ErrOvertaken
					if overtake == "unload" {
						must(t, m.Unload())
					} else {
						want = lifecycle.ErrClosed
						m.Close() // doesn't wait for the load
					}
					if err := <-done; !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
					time.Sleep(hangTime) // until a stubborn load has returned
					synctest.Wait()
					expectReady(t, m)
					expectStates(t, m, lifecycle.Unloaded, lifecycle.Unloaded)
					f.expectAllClosed(t)
					if got := m.Counts(); got.Failed != 0 {
						t.Errorf("%+v", got)
					}
				})
			})
		}
	}
}

// A Reload that waits for its turn while Unload comes is overtaken as well; one that comes after Unload isn't.
func TestOvertakingFollowsTheOrderOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, nil, file(1, "a"))
		must(t, m.Reload())
		src.set(file(2, "b"), file(1, "a"))
		before, waiting := make(chan error, 1), make(chan error, 1)
		go func() { before <- m.Reload() }()
		synctest.Wait()
		go func() { waiting <- m.Reload() }()
		synctest.Wait()
		must(t, m.Unload())
		must(t, m.Reload())
		expectReady(t, m, 2)
		for _, done := range []chan error{before, waiting} {
			if err := <-done; !errors.Is(err, lifecycle.ErrOvertaken) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestClosingIsForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, f := newModel(t, nil, file(1, "a"))
		must(t, m.Reload())
		lease, err := m.Acquire()
		must(t, err)
		closed := make(chan struct{})
		go func() { m.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close returned before the last lease was released")
		default:
		}
		expectReady(t, m)
		lease.Release()
		<-closed
		for _, call := range []func() error{m.Reload, m.Refresh} {
			if err := call(); !errors.Is(err, lifecycle.ErrClosed) {
				t.Errorf("got %v", err)
			}
		}
		if got := f.loads(); len(got) != 1 {
			t.Errorf("loads %v", got)
		}
	})
}

func TestHistoryKeepsTheLastTwentyThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, badVersions, file(1, "a"))
		must(t, m.Reload())
		for i := range 30 {
			src.set(file(1, "a"), file(2, "bad"))
			src.setSettings(fmt.Sprintf("versions: [1, 2]\nquality: %d", 50+i))
			_ = m.Reload()
		}
		synctest.Wait()
		statuses := m.Statuses()
		ended, ready := 0, 0
		for _, status := range statuses {
			switch status.State {
			case lifecycle.Ready:
				ready++
			case lifecycle.Failed, lifecycle.Unloaded:
				ended++
			}
		}
		if ended != 20 || ready != 1 {
			t.Errorf("%d ended and %d ready versions: %+v", ended, ready, statuses)
		}
	})
}

// Without numbers of their own, versions are numbered by their loads.
func TestASingleFileIsNumberedByItsLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, badVersions, file(0, "a"))
		src.single = true
		must(t, m.Reload())
		expectReady(t, m, 1)
		must(t, m.Reload()) // unchanged
		expectReady(t, m, 1)
		src.set(file(0, "b"))
		must(t, m.Refresh())
		expectReady(t, m, 2)
		src.set(file(0, "bad"))
		if err := m.Refresh(); !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		expectReady(t, m, 2)
		src.fail(errors.New("no such file"))
		if err := m.Refresh(); err == nil {
			t.Error("no error")
		}
		src.set(file(0, "c"))
		must(t, m.Refresh())
		expectReady(t, m, 5)
	})
}

// Each load is told whether versions are being served meanwhile; the first isn't.
func TestLaterLoadsAreInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, badVersions, file(1, "bad"))
		if err := m.Reload(); !errors.Is(err, errBad) {
			t.Errorf("got %v", err)
		}
		src.set(file(2, "b"), file(1, "bad"))
		must(t, m.Reload())
		src.set(file(3, "c"), file(2, "b"))
		must(t, m.Reload())
		var background []bool
		for _, r := range f.requests {
			background = append(background, r.Background)
		}
		if !slices.Equal(background, []bool{false, false, true}) {
			t.Errorf("%v", background)
		}
	})
}

// StopWaiting reaches the ready and the draining versions.
func TestStopWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := newModel(t, nil, file(1, "a"))
		must(t, m.Reload())
		lease, err := m.Acquire()
		must(t, err)
		src.set(file(2, "b"))
		must(t, m.Reload())
		lifecycle.Models{m}.StopWaiting()
		lease.Release()
		for i, s := range f.made {
			if s.stopped != 1 {
				t.Errorf("servable %d: StopWaiting was called %d times", i, s.stopped)
			}
		}
	})
}

func TestModels(t *testing.T) {
	newNamed := func(name string) *lifecycle.Model {
		return lifecycle.New(&source{name: name}, &fakes{}, 0, zerolog.Nop())
	}
	models := lifecycle.Models{newNamed("a"), newNamed("b")}
	must(t, models.Validate())
	if found, err := models.Find("b"); err != nil || found != models[1] || models.Default() != models[0] {
		t.Errorf("found %v, %v", found, err)
	}
	if _, err := models.Find("c"); err == nil || err.Error() != `model "c" not found; available: "a", "b"` {
		t.Errorf("got %v", err)
	}
	if err := append(models, newNamed("a")).Validate(); err == nil || !strings.Contains(err.Error(), `two models are named "a"`) {
		t.Errorf("got %v", err)
	}
	if err := (lifecycle.Models{}).Validate(); err == nil {
		t.Error("no models: no error")
	}
}
