package lifecycle_test

import (
	"context"
	"errors"
	"io"
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
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A source is a model folder, or a single file, whose content the tests set.
type source struct {
	name   string
	single bool

	mu       sync.Mutex
	versions []repository.Version // the newest first
	settings string
	err      error
}

func (s *source) Name() string   { return s.name }
func (s *source) String() string { return "/models/" + s.name }
func (s *source) Numbered() bool { return !s.single }
func (s *source) List() (repository.Listing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return repository.Listing{}, s.err
	}
	return repository.Listing{Versions: s.versions, Settings: []byte(s.settings)}, nil
}

// set puts versions into the folder, the newest first.
func (s *source) set(versions ...repository.Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions, s.err = versions, nil
}

func (s *source) setSettings(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings = text
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// file is a version whose file has this content.
func file(number int, content string) repository.Version {
	return repository.Version{Number: number, Fingerprint: content}
}

// A fakeServable records how it is used.
type fakeServable struct {
	version repository.Version
	fakes   *fakes

	failed  chan error // capacity 1
	closed  int        // times; guarded by fakes.mu
	stopped int
	sick    error // what Healthy returns; guarded by fakes.mu
}

func (s *fakeServable) Process(context.Context, io.Reader, servable.Options) (servable.Response, error) {
	s.fakes.mu.Lock()
	defer s.fakes.mu.Unlock()
	if s.closed > 0 {
		return servable.Response{}, errors.New("a closed servable was used")
	}
	return servable.Response{}, nil
}
func (s *fakeServable) Waiting() int                    { return 0 }
func (s *fakeServable) DefaultFormat() settings.Format  { return settings.JPEG }
func (s *fakeServable) Description() loader.Description { return loader.Description{} }
func (s *fakeServable) StopWaiting()                    { s.fakes.count(&s.stopped) }
func (s *fakeServable) Failed() <-chan error            { return s.failed }
func (s *fakeServable) Healthy() error {
	s.fakes.mu.Lock()
	defer s.fakes.mu.Unlock()
	return s.sick
}
func (s *fakeServable) Close() error { s.fakes.count(&s.closed); return nil }

// fakes is a loader whose loads go as the tests say, and all servables that it made.
type fakes struct {
	// plan decides how a load goes. nil: it succeeds after a second.
	plan func(ctx context.Context, r loader.Request) error

	mu       sync.Mutex
	loading  int // loads under way
	most     int // loads under way at the same time, at most
	requests []loader.Request
	made     []*fakeServable
}

func (f *fakes) count(n *int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*n++
}

func (f *fakes) Load(ctx context.Context, r loader.Request) (lifecycle.Servable, error) {
	f.mu.Lock()
	f.loading++
	f.most = max(f.most, f.loading)
	f.requests = append(f.requests, r)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.loading--
	}()
	plan := f.plan
	if plan == nil {
		plan = takes(time.Second)
	}
	if err := plan(ctx, r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &fakeServable{version: r.Version, fakes: f, failed: make(chan error, 1)}
	f.made = append(f.made, s)
	return s, nil
}

// loads returns the numbers of the versions whose loads were begun, in order.
func (f *fakes) loads() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var numbers []int
	for _, r := range f.requests {
		numbers = append(numbers, r.Version.Number)
	}
	return numbers
}

// takes is a plan: the load takes d, or ends earlier with ctx.
func takes(d time.Duration) func(context.Context, loader.Request) error {
	return func(ctx context.Context, r loader.Request) error {
		r.Warming()
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var errBad = errors.New("bad file")

// hangs is a plan: the load ignores ctx, as native code does, and succeeds after an hour.
func hangs(context.Context, loader.Request) error {
	time.Sleep(time.Hour)
	return nil
}

// byContent is a plan of plans: the content of a version's file names its own. Others succeed after a second.
func byContent(plans map[string]func(context.Context, loader.Request) error) func(context.Context, loader.Request) error {
	return func(ctx context.Context, r loader.Request) error {
		plan, ok := plans[r.Version.Fingerprint]
		if !ok {
			plan = takes(time.Second)
		}
		return plan(ctx, r)
	}
}

// badVersions is a plan: versions with the content "bad" fail after a second, others succeed.
func badVersions(ctx context.Context, r loader.Request) error {
	if err := takes(time.Second)(ctx, r); err != nil {
		return err
	}
	if r.Version.Fingerprint == "bad" {
		return errBad
	}
	return nil
}

const (
	loadTimeout = 10 * time.Minute
	hangTime    = 100 * time.Hour // longer than any load of the tests hangs
	// mostLoads is how many loads a model may have under way: one, and those that were abandoned.
	mostLoads = 3
)

// newModel returns a model over a folder with these versions, the newest first. The test's end closes it and checks that
// each servable was closed once.
func newModel(t *testing.T, plan func(context.Context, loader.Request) error, versions ...repository.Version) (*lifecycle.Model, *source, *fakes) {
	t.Helper()
	src := &source{name: "net", versions: versions}
	f := &fakes{plan: plan}
	m := lifecycle.New(src, f, loadTimeout, zerolog.Nop())
	t.Cleanup(func() {
		m.Close()
		time.Sleep(hangTime) // until loads that hang have returned
		synctest.Wait()
		f.expectAllClosed(t)
	})
	return m, src, f
}

func (f *fakes) expectAllClosed(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, s := range f.made {
		if s.closed != 1 {
			t.Errorf("servable %d, of version %d, was closed %d times", i, s.version.Number, s.closed)
		}
	}
	if f.most > mostLoads {
		t.Errorf("%d versions were loaded at the same time", f.most)
	}
}

// expectReady checks which versions are ready.
func expectReady(t *testing.T, m *lifecycle.Model, want ...int) {
	t.Helper()
	versions := m.ReadyVersions()
	got := make([]int, len(versions))
	for i, v := range versions {
		number, err := strconv.Atoi(v.Version)
		if err != nil {
			t.Fatal(err)
		}
		got[i] = number
	}
	if len(got) != len(want) {
		t.Fatalf("ready: %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("ready: %v, want %v", got, want)
		}
	}
	lease, err := m.Acquire()
	switch {
	case len(want) == 0:
		if !errors.Is(err, lifecycle.ErrNotReady) {
			t.Errorf("acquire without a ready version: %v", err)
		}
	case err != nil:
		t.Error(err)
	default:
		defer lease.Release()
		if lease.Version != strconv.Itoa(want[len(want)-1]) {
			t.Errorf("acquired version %s, want %d", lease.Version, want[len(want)-1])
		}
	}
}

// expectStates checks the states in the history.
func expectStates(t *testing.T, m *lifecycle.Model, want ...lifecycle.State) {
	t.Helper()
	var got []lifecycle.State
	for _, status := range m.Statuses() {
		got = append(got, status.State)
	}
	if len(got) != len(want) {
		t.Fatalf("states: %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("states: %v, want %v", got, want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
