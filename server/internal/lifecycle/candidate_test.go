package lifecycle_test

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/repository"
)

// holding returns a model that holds candidates back, with version 1 ready and version 2 as the candidate.
func holding(t *testing.T) (*lifecycle.Model, *source, *fakes) {
	t.Helper()
	m, src, f := newModel(t, badVersions, file(1, "a"))
	m.HoldCandidates()
	must(t, m.Reload())
	src.set(file(2, "b"), file(1, "a"))
	must(t, m.Refresh())
	expectReady(t, m, 1)
	expectCandidate(t, m, 2)
	return m, src, f
}

// expectCandidate checks which version is the candidate; 0: none.
func expectCandidate(t *testing.T, m *lifecycle.Model, want int) {
	t.Helper()
	lease, err := m.AcquireCandidate()
	if want == 0 {
		if !errors.Is(err, lifecycle.ErrNotReady) {
			t.Fatalf("candidate %q, error %v; want none", lease.Version, err)
		}
		return
	}
	must(t, err)
	defer lease.Release()
	if lease.Version != strconv.Itoa(want) || !lease.Candidate {
		t.Fatalf("candidate %q (%v), want %d", lease.Version, lease.Candidate, want)
	}
}

func TestPromote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, f := holding(t)
		named, err := m.AcquireVersion(2)
		must(t, err)
		named.Release()
		expectStates(t, m, lifecycle.Ready, lifecycle.Candidate)
		must(t, m.Promote(lifecycle.AnyLoad))
		expectReady(t, m, 2)
		expectCandidate(t, m, 0)
		synctest.Wait()
		expectStates(t, m, lifecycle.Unloaded, lifecycle.Ready)
		if err := m.Promote(lifecycle.AnyLoad); !errors.Is(err, lifecycle.ErrNoCandidate) {
			t.Errorf("a second promotion: %v", err)
		}
		if loads := f.loads(); !slices.Equal(loads, []int{1, 2}) {
			t.Errorf("loads %v", loads)
		}
	})
}

func TestPromoteSingleFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, nil, file(0, "a"))
		src.single = true
		m.HoldCandidates()
		must(t, m.Reload())
		src.set(file(0, "b"))
		must(t, m.Refresh())
		expectReady(t, m, 1)
		expectCandidate(t, m, 2)
		must(t, m.Promote(lifecycle.AnyLoad))
		expectReady(t, m, 2)
	})
}

// A file that is replaced, or has new settings, has the number of the version that serves.
func TestCandidateWithTheNumberOfTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := newModel(t, nil, file(1, "a"))
		m.HoldCandidates()
		must(t, m.Reload())
		src.setSettings("quality: 80")
		must(t, m.Refresh())
		expectReady(t, m, 1)
		expectCandidate(t, m, 1)
		must(t, m.Promote(lifecycle.AnyLoad))
		expectReady(t, m, 1)
		expectCandidate(t, m, 0)
	})
}

func TestNewerCandidateReplacesAnOlderOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, f := holding(t)
		src.setSettings("versions: latest 2") // which makes version 1 a new one, too: its settings are
		must(t, m.Refresh())
		src.set(file(4, "d"), file(3, "c"), file(2, "b"), file(1, "a"))
		must(t, m.Refresh())
		must(t, m.Refresh())
		expectCandidate(t, m, 4)
		if slices.Contains(f.loads(), 3) {
			t.Errorf("loads %v: version 3 lies between the default and the candidate", f.loads())
		}
		must(t, m.Promote(lifecycle.AnyLoad))
		expectReady(t, m, 3, 4)
		expectCandidate(t, m, 0)
	})
}

// A candidate that is no longer wanted goes, and nothing else changes.
func TestCandidateIsWithdrawn(t *testing.T) {
	for name, withdraw := range map[string]func(m *lifecycle.Model, src *source, f *fakes) error{
		"file removed": func(m *lifecycle.Model, src *source, _ *fakes) error {
			src.set(file(1, "a"))
			return m.Refresh()
		},
		"failed": func(_ *lifecycle.Model, _ *source, f *fakes) error {
			f.made[1].failed <- errBad
			return nil
		},
		"rolled back": func(m *lifecycle.Model, _ *source, _ *fakes) error {
			return m.Rollback(lifecycle.AnyLoad, "bad colours")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, src, f := holding(t)
				must(t, withdraw(m, src, f))
				synctest.Wait()
				expectCandidate(t, m, 0)
				expectReady(t, m, 1)
				must(t, m.Refresh())
				expectReady(t, m, 1)
				if loads := f.loads(); !slices.Equal(loads, []int{1, 2}) {
					t.Errorf("loads %v", loads)
				}
			})
		})
	}
}

func TestRollbackOfACandidateUntilTheNextReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := holding(t)
		must(t, m.Rollback(lifecycle.AnyLoad, "bad colours"))
		synctest.Wait()
		if last := m.Statuses()[1]; last.State != lifecycle.Failed || last.Reason != "bad colours" {
			t.Errorf("status %+v", last)
		}
		must(t, m.Reload())
		expectCandidate(t, m, 2)
	})
}

func TestRollbackOfTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := holding(t)
		must(t, m.Promote(lifecycle.AnyLoad))
		must(t, m.Rollback(lifecycle.AnyLoad, "bad colours"))
		expectReady(t, m, 1)
		expectCandidate(t, m, 0)
	})
}

func TestRollbackWithoutAnOlderVersion(t *testing.T) {
	for name, versions := range map[string][]repository.Version{
		"none":     {file(2, "b")},
		"unusable": {file(2, "b"), file(1, "bad")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _, _ := newModel(t, badVersions, versions...)
				must(t, m.Reload())
				if err := m.Rollback(lifecycle.AnyLoad, "bad colours"); !errors.Is(err, lifecycle.ErrNoOlder) {
					t.Errorf("rollback: %v", err)
				}
				expectReady(t, m, 2)
				if first := m.Statuses()[0]; first.State != lifecycle.Ready || first.Reason != "" {
					t.Errorf("status %+v", first)
				}
			})
		})
	}
}

func TestCandidateTakesThePlaceOfAFailedDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, f := holding(t)
		f.made[0].failed <- errBad
		synctest.Wait()
		expectReady(t, m, 2)
		expectCandidate(t, m, 0)
	})
}

func TestUnloadEndsTheCandidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, _ := holding(t)
		must(t, m.Unload())
		expectCandidate(t, m, 0)
		expectReady(t, m)
		must(t, m.Reload())
		expectReady(t, m, 2) // with nothing that serves, nothing waits
	})
}

// Whoever has judged a candidate changes nothing once another version is the candidate, or none is.
func TestChangesOfACandidateThatHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, src, _ := holding(t)
		lease, err := m.AcquireCandidate()
		must(t, err)
		lease.Release()
		src.set(file(3, "c"), file(2, "b"), file(1, "a"))
		must(t, m.Refresh())
		for _, current := range []int{3, 0} { // another candidate, and none
			expectCandidate(t, m, current)
			if err := m.Promote(lease.Load); !errors.Is(err, lifecycle.ErrNoCandidate) {
				t.Errorf("promotion: %v", err)
			}
			if err := m.Rollback(lease.Load, "bad colours"); !errors.Is(err, lifecycle.ErrNoCandidate) {
				t.Errorf("rollback: %v", err)
			}
			expectCandidate(t, m, current)
			if current > 0 {
				must(t, m.Promote(lifecycle.AnyLoad))
			}
			expectReady(t, m, 3)
		}
	})
}
