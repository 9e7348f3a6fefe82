package rollout_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/rollout"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A folder is a model's source with versions that can be added.
type folder struct {
	mu       sync.Mutex
	versions []repository.Version
}

func (f *folder) String() string { return "folder" }
func (f *folder) Name() string   { return "net" }
func (f *folder) Numbered() bool { return true }

func (f *folder) List() (repository.Listing, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return repository.Listing{Versions: f.versions}, nil
}

// add puts a version into the folder, the newest.
func (f *folder) add(number int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions = append([]repository.Version{{Number: number, Fingerprint: strconv.Itoa(number)}}, f.versions...)
}

// A behaviour is how a version processes requests. The zero value takes no time and returns a black pixel.
type behaviour struct {
	took    time.Duration
	pixel   byte
	size    int // of the result's sides; 0: 1
	fails   func(request int) bool
	waiting func() int

	mu       sync.Mutex
	requests int
}

// versions are the behaviours by number. They are a lifecycle.Loader.
type versions map[int]*behaviour

func (v versions) Load(_ context.Context, r loader.Request) (lifecycle.Servable, error) {
	return version{v[r.Version.Number]}, nil
}

type version struct{ *behaviour }

var errModel = errors.New("the forward failed")

func (v version) Process(_ context.Context, _ io.Reader, o servable.Options) (servable.Response, error) {
	v.mu.Lock()
	v.requests++
	number := v.requests
	v.mu.Unlock()
	stages := servable.Stages{Forward: v.took}
	if v.fails != nil && v.fails(number) {
		return servable.Response{Stages: stages}, &servable.ModelError{Cause: errModel}
	}
	if o.Record != nil {
		side := max(1, v.size)
		o.Record.Result = imagecodec.Image{Width: side, Height: side, Channels: 1, Pixels: make([]byte, side*side)}
		o.Record.Result.Pixels[0] = v.pixel
	}
	return servable.Response{Stages: stages}, nil
}

func (v version) Waiting() int {
	if v.waiting == nil {
		return 0
	}
	return v.waiting()
}
func (version) DefaultFormat() settings.Format  { return settings.JPEG }
func (version) Description() loader.Description { return loader.Description{} }
func (version) StopWaiting()                    {}
func (version) Healthy() error                  { return nil }
func (version) Failed() <-chan error            { return nil }
func (version) Close() error                    { return nil }

func (b *behaviour) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests
}

// A test is a model with version 1 ready, and version 2 as its candidate.
type test struct {
	t          *testing.T
	source     *folder
	model      *lifecycle.Model
	controller *rollout.Controller
}

// begin must be called in a synctest bubble.
func begin(t *testing.T, plan rollout.Plan, serving, candidate *behaviour) *test {
	t.Helper()
	source := &folder{}
	source.add(1)
	model := lifecycle.New(source, versions{1: serving, 2: candidate, 3: candidate}, time.Minute, zerolog.Nop())
	s := &test{t: t, source: source, model: model, controller: rollout.New(model, plan, zerolog.Nop())}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.controller.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		model.Close()
	})
	s.must(model.Reload())
	source.add(2)
	s.must(model.Refresh())
	s.pass(2 * time.Second)
	return s
}

func (s *test) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// pass lets time pass, and everything happen that is due by then.
func (s *test) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// request sends a request of a client and returns the version that processed it.
func (s *test) request(client int) string {
	s.t.Helper()
	lease, err := s.controller.Acquire(strconv.Itoa(client))
	s.must(err)
	defer lease.Release()
	comparison := s.controller.Compare(lease)
	response, err := lease.Process(s.t.Context(), nil, servable.Options{Record: comparison.Recording()})
	outcome := rollout.Succeeded
	if err != nil {
		outcome = rollout.Failed
	}
	s.controller.Processed(lease, response.Stages, outcome)
	comparison.Answered(err == nil)
	synctest.Wait()
	return lease.Version
}

// requests sends a request of each of so many clients, and returns how many the candidate answered.
func (s *test) requests(clients int) (byCandidate int) {
	s.t.Helper()
	for client := range clients {
		if s.request(client) == "2" {
			byCandidate++
		}
	}
	return byCandidate
}

// states returns the states of the versions.
func (s *test) states() map[int]lifecycle.Status {
	last := map[int]lifecycle.Status{}
	for _, status := range s.model.Statuses() {
		last[status.Version] = status
	}
	return last
}

func parse(t *testing.T, steps, rules string) rollout.Plan {
	t.Helper()
	plan := rollout.Plan{StepTime: 5 * time.Minute}
	var err error
	if steps != "" {
		if plan.Steps, err = rollout.ParseSteps(steps); err != nil {
			t.Fatal(err)
		}
	}
	if plan.Rules, err = rollout.ParseRules(rules); err != nil {
		t.Fatal(err)
	}
	return plan
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
