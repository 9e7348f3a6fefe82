package model

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/torch"
)

// ErrNotReady is Acquire's answer when no version is ready.
var ErrNotReady = errors.New("model: no version is ready")

// keptStatuses is how many versions that are gone or failed are still told of.
const keptStatuses = 20

// Served is a model by its name: the versions that follow each other, of which one takes the requests.
//
// A new version is loaded, checked and warmed beside the one that serves, and takes over in one step: each request
// belongs to the version that it acquired, from its first byte to its answer. The old one answers what it has, then its
// memory is given back. A version that fails changes nothing.
//
// Its methods are safe for concurrent use.
type Served struct {
	name    string
	prepare func() (Config, error)
	log     zerolog.Logger

	loading  sync.Mutex // one version at a time: loading takes memory and cores
	draining sync.WaitGroup

	mu       sync.Mutex
	current  *Version   // the one that is ready; nil: none
	versions []*Version // in the order of their numbers; of those that ended, the last keptStatuses
	number   int        // the last version's
	closed   bool
}

// NewServed makes a Served without a version. prepare is called for each load and tells what to load and how; it reads
// what it needs anew.
func NewServed(name string, prepare func() (Config, error), log zerolog.Logger) *Served {
	return &Served{name: name, prepare: prepare, log: log.With().Str("model", name).Logger()}
}

// Name is the model's name.
func (s *Served) Name() string { return s.name }

// Acquire returns the version that is ready, for one request, whose end the caller tells by Release. Errors:
// ErrNotReady.
func (s *Served) Acquire() (*Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, ErrNotReady
	}
	s.current.use()
	return s.current, nil
}

// Ready tells whether a version is ready.
func (s *Served) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil
}

// Load makes a new version and returns when it has taken over. On an error the version that was ready still is. The
// errors are those of prepare and of the function Load, and ErrNotReady after Close.
func (s *Served) Load() (*Version, error) {
	v, err := s.add()
	if err != nil {
		return nil, err
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	v.enter(Loading)
	config, err := s.prepare()
	if err == nil {
		config.Loaded = func() { v.enter(Warming) }
		v.Model, err = Load(config)
	}
	if err != nil {
		v.fail(err)
		s.forget()
		s.tell(v, s.log.Error().Err(err), "the file can't be served; nothing has changed")
		return nil, err
	}
	if err := s.replace(v); err != nil {
		return nil, err
	}
	s.tell(v, s.log.Info(), "the new version has taken over")
	return v, nil
}

// tell logs what became of a load; not of the first one, whose caller does.
func (s *Served) tell(v *Version, event *zerolog.Event, message string) {
	if v.number > 1 {
		event.Stringer("version", v).Msg(message)
	}
}

// add makes a version that has yet to be loaded.
func (s *Served) add() (*Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrNotReady
	}
	s.number++
	v := newVersion(s.number)
	s.versions = append(s.versions, v)
	return v, nil
}

// replace lets v take the requests, none if it is nil, and drains the version that took them so far.
func (s *Served) replace(v *Version) error {
	s.mu.Lock()
	if s.closed && v != nil {
		s.mu.Unlock()
		return errors.Join(ErrNotReady, v.drain())
	}
	old := s.current
	s.current = v
	if v != nil {
		v.enter(Ready)
	}
	if old != nil {
		s.draining.Add(1)
	}
	s.mu.Unlock()
	if old != nil {
		go s.drain(old)
	}
	return nil
}

func (s *Served) drain(v *Version) {
	defer s.draining.Done()
	err := v.drain()
	torch.ReleaseMemory()
	s.log.Info().Stringer("version", v).AnErr("problem", err).Msg("the version before is gone")
	s.forget()
}

// forget leaves out the oldest versions that have ended.
func (s *Served) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := 0
	for _, v := range slices.Backward(slices.Clone(s.versions)) {
		if state := v.Status().State; state != Gone && state != Failed {
			continue
		}
		if ended++; ended > keptStatuses {
			s.versions = slices.DeleteFunc(s.versions, func(each *Version) bool { return each == v })
		}
	}
}

// Unload lets no version take requests any more, until the next Load. Errors: ErrNotReady when none does.
func (s *Served) Unload() error {
	if !s.Ready() {
		return fmt.Errorf("%w of %s", ErrNotReady, s.name)
	}
	return s.replace(nil)
}

// Statuses tells of the versions, in the order of their numbers.
func (s *Served) Statuses() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	statuses := make([]Status, len(s.versions))
	for i, v := range s.versions {
		statuses[i] = v.Status()
	}
	return statuses
}

// StopWaiting makes batches go without waiting for company; see batch.Batcher.StopWaiting.
func (s *Served) StopWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.versions {
		if state := v.Status().State; state == Ready || state == Draining {
			v.StopWaiting()
		}
	}
}

// Close lets no version take requests, for good, and returns when the last one has answered those that it has.
func (s *Served) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.replace(nil)
	s.draining.Wait()
}
