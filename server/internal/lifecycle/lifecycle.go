// Package lifecycle decides which versions of which models serve. It lists what lies at a model's source, loads the wanted
// versions beside those that serve, swaps them in, drains the old ones, and keeps the history.
//
// # Contract
//
//  1. Routing: Acquire returns the ready version with the highest number, and AcquireVersion the ready version with the
//     given number, or else ErrNotReady.
//  2. Leases: a version's servable stays open until each lease of it has been released.
//  3. Wanted versions: after a Reload without errors, the versions that the policy wants are ready, and no others.
//  4. One at a time: a model loads at most one version at a time.
//  5. Takeover: a new version becomes ready in one step, when its load has succeeded, and the versions that it replaces
//     start to drain only then. So a model with a ready version keeps one until Unload or Close.
//  6. Unchanged versions: a ready version of the same file and settings is kept and not loaded again. A failed one is
//     loaded again by Reload, but not by Refresh.
//  7. Failure: a version that fails to load leaves the ready versions as they are. With the policy "latest N", the next
//     older version takes the failed one's place.
//  8. Unload: no version is ready from then on until the next Reload; Refresh does nothing.
//  9. Overtaking: a load that Unload or Close overtakes never becomes ready; its servable is closed at once.
//  10. Draining: a version that was replaced gets no new leases and is closed exactly once, after its last lease.
//  11. Closing: after Close nothing becomes ready, and Reload and Refresh return ErrClosed. Close waits until the versions
//     that were ready are closed. It cancels a load under way, but doesn't wait for it.
//  12. History: Statuses has each version that hasn't ended, and the last 20 that have, in the order of their loads.
//
// # How it does so
//
// One mutex guards all state of a Model, and is never held while something is loaded, closed or awaited. Whoever
// reconciles holds the model's turn, a channel of capacity one. Unload and Close raise the model's generation, by which a
// load that began earlier finds out that it was overtaken. Rejected: a goroutine for each model that takes commands from
// a queue, since then Reload can't return its own result without a second channel, and a slow load blocks Unload.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// ErrNotReady is returned when no version, or not the wanted one, is ready.
var ErrNotReady = errors.New("no version is ready")

// ErrClosed is returned by Reload and Refresh after Close.
var ErrClosed = errors.New("the model is closed")

// ErrOvertaken is returned by a Reload or Refresh that Unload or Close overtook.
var ErrOvertaken = errors.New("the model was unloaded meanwhile")

// A Source lists the versions of one model. *repository.Source is one.
type Source interface {
	fmt.Stringer // the location, for messages
	Name() string
	// Numbered reports whether versions have numbers of their own, as in a folder.
	Numbered() bool
	List() (repository.Listing, error)
}

// A Loader makes a version servable. When ctx ends it should return soon, with an error.
type Loader interface {
	Load(ctx context.Context, r loader.Request) (Servable, error)
}

// A Servable is a loaded version; see package servable. *loader.Loaded is one.
type Servable interface {
	Process(ctx context.Context, body io.Reader, o servable.Options) (servable.Response, error)
	DefaultFormat() settings.Format
	Description() loader.Description
	StopWaiting()
	Close() error
}

// A State is where a version is in its life. Its text is part of the administration API.
type State string

// A version passes through these states in this order, or ends in Failed before it was Ready.
const (
	Queued   State = "queued"   // waits for another version's load
	Loading  State = "loading"  // its file is being read
	Warming  State = "warming"  // it is being checked and run at each batch size
	Ready    State = "ready"    // accepts requests
	Draining State = "draining" // accepts no new requests; in-flight requests finish
	Unloaded State = "gone"     // closed; its memory has been returned
	Failed   State = "failed"   // could not be served
)

func (s State) ended() bool { return s == Unloaded || s == Failed }

// A Status is what is known of a version at one moment.
type Status struct {
	Version int       `json:"version"` // 0: the source as a whole
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"` // why it failed
	Since   time.Time `json:"since"`            // when it entered its state
}

// An origin is what a version is made from. Equal origins make equal versions.
type origin struct {
	file     repository.Version
	settings string // the text of model.yaml
}

// A record is a version's entry in the history.
type record struct {
	status Status
	origin origin
}

func (r *record) String() string { return strconv.Itoa(r.status.Version) }

// serving is a version that accepts requests, or did and is draining.
type serving struct {
	record   *record
	name     string // the version's number, as headers have it
	servable Servable
	leases   int
	draining bool
	idle     chan struct{} // closed when the version drains and its last lease has been released
}

// keptRecords is how many versions that have ended stay in the history.
const keptRecords = 20

// LoadCounts is how many loads of versions ended how.
type LoadCounts struct{ Succeeded, Failed int }

// A Model is one model by its name. Its methods are safe for concurrent use.
type Model struct {
	source Source
	loader Loader
	log    zerolog.Logger

	ctx     context.Context // of all loads; ended by Close
	cancel  context.CancelCauseFunc
	turn    chan struct{}  // capacity 1; held while reconciling
	closing sync.WaitGroup // drains under way

	mu sync.Mutex
	// INVARIANT: sorted by number, which are distinct; none is draining. The last is the default.
	ready []*serving
	// The ready and the draining versions.
	open    []*serving
	history []*record // in the order of the loads
	number  int       // of the last load, where versions have no numbers of their own
	counts  LoadCounts
	// Raised by Unload and Close. A load that began in an earlier generation never becomes ready.
	generation int
	cancelLoad context.CancelCauseFunc // of the load under way; does nothing if there is none
	unloaded   bool
	closed     bool
}

// New returns a Model without versions.
func New(source Source, l Loader, log zerolog.Logger) *Model {
	m := &Model{
		source: source, loader: l, log: log.With().Str("model", source.Name()).Logger(),
		turn: make(chan struct{}, 1), cancelLoad: func(error) {},
	}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	return m
}

// Name is the model's name.
func (m *Model) Name() string { return m.source.Name() }

// A Lease keeps a version open for one request.
type Lease struct {
	Servable
	Version string // the version's number
	model   *Model
	serving *serving
}

// Model is the name of the version's model.
func (l Lease) Model() string { return l.model.Name() }

// Release ends the lease. The caller must call it exactly once.
func (l Lease) Release() {
	l.model.mu.Lock()
	defer l.model.mu.Unlock()
	l.serving.leases--
	l.serving.closeIfIdleLocked()
}

func (s *serving) closeIfIdleLocked() {
	if s.draining && s.leases == 0 {
		close(s.idle)
	}
}

// Acquire returns the ready version with the highest number. The caller must Release it. Errors: ErrNotReady.
func (m *Model) Acquire() (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaseLocked(len(m.ready) - 1)
}

// AcquireVersion returns the ready version with the given number. The caller must Release it. Errors: ErrNotReady.
func (m *Model) AcquireVersion(number int) (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaseLocked(m.readyIndexLocked(number))
}

func (m *Model) leaseLocked(at int) (Lease, error) {
	if at < 0 {
		return Lease{}, ErrNotReady
	}
	s := m.ready[at]
	s.leases++
	return Lease{Servable: s.servable, Version: s.name, model: m, serving: s}, nil
}

func (m *Model) readyIndexLocked(number int) int {
	return slices.IndexFunc(m.ready, func(s *serving) bool { return s.record.status.Version == number })
}

// Ready reports whether a version is ready.
func (m *Model) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ready) > 0
}

// Statuses returns the history.
func (m *Model) Statuses() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	statuses := make([]Status, len(m.history))
	for i, r := range m.history {
		statuses[i] = r.status
	}
	return statuses
}

// Counts returns how many loads ended how.
func (m *Model) Counts() LoadCounts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts
}

// A ReadyVersion describes a version that accepts requests.
type ReadyVersion struct {
	Version string // its number
	loader.Description
}

// ReadyVersions describes the ready versions, sorted by number; the last is the default.
func (m *Model) ReadyVersions() []ReadyVersion {
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := make([]ReadyVersion, len(m.ready))
	for i, s := range m.ready {
		versions[i] = ReadyVersion{s.name, s.servable.Description()}
	}
	return versions
}

// StopWaiting makes the batches of all versions start without waiting for company; see batch.Batcher.StopWaiting.
func (m *Model) StopWaiting() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.open {
		s.servable.StopWaiting()
	}
}

// Unload removes all versions from routing and drains them. Errors: ErrNotReady if none is ready.
func (m *Model) Unload() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ready) == 0 {
		return fmt.Errorf("unload %s: %w", m.Name(), ErrNotReady)
	}
	m.unloaded = true
	m.generation++
	m.cancelLoad(ErrOvertaken)
	m.retireLocked(nil)
	return nil
}

// Close removes all versions from routing for good, and returns when they have answered their requests and are closed.
func (m *Model) Close() {
	m.mu.Lock()
	m.closed = true
	m.generation++
	m.cancel(ErrClosed)
	m.retireLocked(nil)
	m.mu.Unlock()
	m.closing.Wait()
}

// retireLocked drains the ready versions that aren't wanted.
func (m *Model) retireLocked(wanted []*record) {
	m.ready = slices.DeleteFunc(m.ready, func(s *serving) bool {
		if slices.Contains(wanted, s.record) {
			return false
		}
		m.drainLocked(s)
		return true
	})
}

// drainLocked starts to drain a version; the caller removes it from ready.
func (m *Model) drainLocked(s *serving) {
	s.record.enterLocked(Draining)
	s.draining = true
	s.closeIfIdleLocked()
	m.closing.Go(func() {
		<-s.idle
		err := s.servable.Close()
		m.log.Info().Str("version", s.name).AnErr("problem", err).Msg("version unloaded")
		m.mu.Lock()
		defer m.mu.Unlock()
		m.open = slices.DeleteFunc(m.open, func(other *serving) bool { return other == s })
		s.record.enterLocked(Unloaded)
		m.pruneHistoryLocked()
	})
}

func (r *record) enterLocked(state State) {
	r.status.State, r.status.Since = state, time.Now()
}

// pruneHistoryLocked removes the oldest of the records that have ended.
func (m *Model) pruneHistoryLocked() {
	excess := -keptRecords
	for _, r := range m.history {
		if r.status.State.ended() {
			excess++
		}
	}
	m.history = slices.DeleteFunc(m.history, func(r *record) bool {
		if excess <= 0 || !r.status.State.ended() {
			return false
		}
		excess--
		return true
	})
}
