// Package lifecycle decides which versions of which models serve. It lists what lies at a model's source, loads the wanted
// versions beside those that serve, swaps them in, drains the old ones, and keeps the history.
//
// # Contract
//
//  1. Routing: Acquire returns the ready version with the highest number, which is the default. AcquireVersion returns the
//     ready version with the given number, or else the candidate with that number. AcquireCandidate returns the candidate.
//     Otherwise the error is ErrNotReady.
//  2. Leases: a version's servable stays open until each lease of it has been released.
//  3. Wanted versions: after a Reload without errors, the versions that the policy wants are ready, and no others. Sentence
//     16 has the exception.
//  4. Loads: a model loads one version at a time, of several wanted ones the newest first. A load that takes longer than
//     the time limit has failed.
//  5. Newer versions: a Reload or Refresh cancels the load under way if that version is no longer wanted, or if a newer
//     wanted one hasn't been tried yet, which is loaded next. So no load delays a newer version's.
//  6. Hanging loads: a cancelled load that doesn't return within cancelTime is abandoned. It never becomes ready, and if it
//     ever returns, its servable is closed. While maxAbandoned loads are abandoned, other versions fail without a load.
//  7. Takeover: a new version becomes ready in one step, when its load has succeeded, and the versions that it replaces
//     start to drain only then. So a model with a ready version keeps one until Unload or Close.
//  8. Unchanged versions: a ready version of the same file and settings is kept and not loaded again. A failed one is
//     loaded again by Reload, but not by Refresh.
//  9. Failure: a version that fails to load leaves the ready versions as they are. With the policy "latest N", the next
//     older version takes the failed one's place.
//  10. Failing: a ready version that fails while it serves gets the state Failed, and gives its place as one that failed to
//     load does. Until other wanted versions are ready it stays in routing, since a bad version is better than none.
//  11. Unload: no version is ready from then on until the next Reload; Refresh does nothing. It also ends a first load.
//  12. Overtaking: a load that Unload or Close overtakes never becomes ready; its servable is closed at once.
//  13. Draining: a version that was replaced gets no new leases and is closed exactly once, after its last lease.
//  14. Closing: after Close nothing becomes ready, and Reload and Refresh return ErrClosed. Close waits until the versions
//     that were ready are closed. It cancels a load under way, but doesn't wait for it.
//  15. History: Statuses has each version that hasn't ended, and the last 20 that have, in the order of their loads.
//  16. Candidates: after HoldCandidates, a wanted version whose number isn't below the default's becomes the candidate in
//     place of ready, unless the default has failed, and the default stays ready. There is at most one candidate: a newer
//     one replaces it, and a version between the default and the candidate isn't loaded. A candidate that is no longer
//     wanted, or fails, drains.
//  17. Promotion: Promote makes the candidate ready, as a takeover, and so does the failure of the default.
//  18. Rollback: Rollback makes the candidate Failed and drains it. Without a candidate it makes the default Failed, so that
//     by sentence 10 an older version takes its place. If none can, nothing changes, and the error is ErrNoOlder.
//
// # How it does so
//
// One mutex guards all state of a Model, and is never held while something is loaded, closed or awaited. Whoever
// reconciles holds the model's turn, a channel of capacity one. Unload and Close raise the model's generation, by which a
// load that began earlier finds out that it was overtaken. Rejected: a goroutine for each model that takes commands from
// a queue, since then Reload can't return its own result without a second channel, and a slow load blocks Unload.
//
// Whoever comes while another one holds the turn compares the source with the load under way, and cancels that by sentence
// 5; its reconciler begins again with a new listing. Rejected: to load a newer version beside the older one, since three
// versions at once may not fit into the memory.
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

// ErrNoCandidate is returned by Promote and Rollback when there is no candidate, or not the given one.
var ErrNoCandidate = errors.New("no version waits to be promoted")

// ErrNoOlder is returned by Rollback when no other version can take the default's place.
var ErrNoOlder = errors.New("no older version can be served")

// errSuperseded is the cause of a load's end by sentence 5 of the contract.
var errSuperseded = errors.New("other versions are wanted now")

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
	// Waiting is the number of images that have a place in the queue.
	Waiting() int
	DefaultFormat() settings.Format
	Description() loader.Description
	StopWaiting()
	// Healthy returns nil, or why the version processes no images at present. It must not block.
	Healthy() error
	// Failed returns a channel that receives at most one error, by which a version that serves has failed for good. nil: the
	// version can't fail while the process lives.
	Failed() <-chan error
	Close() error
}

// A State is where a version is in its life. Its text is part of the administration API.
type State string

// A version passes through these states in this order, or ends in Failed.
const (
	Queued   State = "queued"   // waits for another version's load
	Loading  State = "loading"  // its file is being read
	Warming  State = "warming"  // it is being checked and run at each batch size
	Ready    State = "ready"    // accepts requests
	Draining State = "draining" // accepts no new requests; in-flight requests finish
	Unloaded State = "gone"     // closed; its memory has been returned
	Failed   State = "failed"   // could not be served, or failed while it was, or was rolled back
	// Candidate stands between Warming and Ready: loaded, and waiting to be promoted or rolled back.
	Candidate State = "candidate"
)

func (s State) ended() bool { return s == Unloaded || s == Failed }

// A Status is what is known of a version at one moment.
type Status struct {
	Version int       `json:"version"` // 0: the source as a whole
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"` // why it failed
	Since   time.Time `json:"since"`            // when it entered its state
	// Warnings are what its load found out that a user should know, such as that it mixes the images of a batch.
	Warnings []string `json:"warnings,omitempty"`
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
	load   int // its number, from 1
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

const (
	// keptRecords is how many versions that have ended stay in the history.
	keptRecords = 20
	// cancelTime is how long a load may take to return after it was cancelled: longer than a forward of most models.
	cancelTime = 2 * time.Second
	// maxAbandoned is how many loads may hang in native code at the same time. Each keeps a thread, perhaps a core, and the
	// memory of a model.
	maxAbandoned = 3
)

// errTooManyHang is the failure of a version that isn't loaded because of others that hang.
var errTooManyHang = fmt.Errorf("%d earlier loads of this model hang and can't be stopped; restart the server", maxAbandoned)

// LoadCounts is how many loads of versions ended how.
type LoadCounts struct{ Succeeded, Failed int }

// A Model is one model by its name. Its methods are safe for concurrent use.
type Model struct {
	source  Source
	loader  Loader
	timeout time.Duration // of a load; 0: none
	log     zerolog.Logger

	ctx     context.Context // of all loads; ended by Close
	cancel  context.CancelCauseFunc
	turn    chan struct{}  // capacity 1; held while reconciling
	closing sync.WaitGroup // drains under way

	mu sync.Mutex
	// INVARIANT: sorted by number, which are distinct; none is draining. The last is the default.
	ready     []*serving
	candidate *serving // not draining; nil: none
	hold      bool     // new versions become candidates
	// The ready and the draining versions, and the candidate. A Failed one among them serves, or did when it failed.
	open    []*serving
	history []*record // in the order of the loads
	number  int       // of the last load, where versions have no numbers of their own
	loads   int       // that were begun
	counts  LoadCounts
	slips   []string // of the last listing; see repository.Listing
	// Raised by Unload and Close. A load that began in an earlier generation never becomes ready.
	generation  int
	reconciling int   // calls of Reload and Refresh under way
	load        *load // under way; nil: none
	abandoned   int   // loads that were cancelled and haven't returned
	unloaded    bool
}

// A load is a call of the loader that may be cancelled.
type load struct {
	record *record
	cancel context.CancelCauseFunc
}

// New returns a Model without versions. loadTimeout is the time limit of a load; 0: none.
func New(source Source, l Loader, loadTimeout time.Duration, log zerolog.Logger) *Model {
	m := &Model{
		source: source, loader: l, timeout: loadTimeout, log: log.With().Str("model", source.Name()).Logger(),
		turn: make(chan struct{}, 1),
	}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	return m
}

// Name is the model's name.
func (m *Model) Name() string { return m.source.Name() }

// A Lease keeps a version open for one request.
type Lease struct {
	Servable
	Version   string // the version's number
	Candidate bool   // it was the candidate when the lease began
	Load      int    // the number of the version's load, from 1; no other version of the model has it
	model     *Model
	serving   *serving
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
	return m.leaseLocked(m.defaultLocked())
}

// AcquireVersion returns the ready version with the given number, or the candidate with that number. The caller must
// Release it. Errors: ErrNotReady.
func (m *Model) AcquireVersion(number int) (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.readyIndexLocked(number); at >= 0 {
		return m.leaseLocked(m.ready[at])
	}
	if m.candidate != nil && m.candidate.number() == number {
		return m.leaseLocked(m.candidate)
	}
	return Lease{}, ErrNotReady
}

// AcquireCandidate returns the candidate. The caller must Release it. Errors: ErrNotReady.
func (m *Model) AcquireCandidate() (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaseLocked(m.candidate)
}

// leaseLocked returns a lease of a version; nil: there is none.
func (m *Model) leaseLocked(s *serving) (Lease, error) {
	if s == nil {
		return Lease{}, ErrNotReady
	}
	s.leases++
	return Lease{Servable: s.servable, Version: s.name, Candidate: s == m.candidate, Load: s.record.load, model: m, serving: s}, nil
}

// defaultLocked returns the ready version with the highest number; nil: none is ready.
func (m *Model) defaultLocked() *serving {
	if len(m.ready) == 0 {
		return nil
	}
	return m.ready[len(m.ready)-1]
}

func (s *serving) number() int { return s.record.status.Version }

func (m *Model) readyIndexLocked(number int) int {
	return slices.IndexFunc(m.ready, func(s *serving) bool { return s.record.status.Version == number })
}

// Ready reports whether a version is ready.
func (m *Model) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ready) > 0
}

// An UnhealthyError is why a ready version processes no images at present.
type UnhealthyError struct {
	Model, Version string
	Err            error // of Servable.Healthy
}

func (e *UnhealthyError) Error() string {
	return "version " + e.Version + " of " + e.Model + ": " + e.Err.Error()
}

func (e *UnhealthyError) Unwrap() error { return e.Err }

// Healthy returns nil, or an *UnhealthyError of the newest ready version that is unhealthy.
func (m *Model) Healthy() error {
	m.mu.Lock()
	ready := slices.Clone(m.ready)
	m.mu.Unlock()
	for _, s := range slices.Backward(ready) {
		if err := s.servable.Healthy(); err != nil {
			return &UnhealthyError{Model: m.Name(), Version: s.name, Err: err}
		}
	}
	return nil
}

// Warnings says what the last listing of the source has ignored because of its name, and what to do.
func (m *Model) Warnings() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slips
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
	Waiting int // images that have a place in its queue
}

// ReadyVersions describes the ready versions, sorted by number; the last is the default.
func (m *Model) ReadyVersions() []ReadyVersion {
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := make([]ReadyVersion, len(m.ready))
	for i, s := range m.ready {
		versions[i] = ReadyVersion{s.name, s.servable.Description(), s.servable.Waiting()}
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

// Unload removes all versions from routing, drains them, and ends the load of others. Errors: ErrNotReady if no version is
// ready or being loaded.
func (m *Model) Unload() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ready) == 0 && m.reconciling == 0 {
		return fmt.Errorf("unload %s: %w", m.Name(), ErrNotReady)
	}
	m.unloaded = true
	m.generation++
	if m.load != nil {
		m.load.cancel(ErrOvertaken)
	}
	m.retireLocked(nil)
	m.withdrawLocked()
	return nil
}

// Close removes all versions from routing for good, and returns when they have answered their requests and are closed.
func (m *Model) Close() {
	m.mu.Lock()
	m.generation++
	m.cancel(ErrClosed)
	m.retireLocked(nil)
	m.withdrawLocked()
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
	s.record.leaveLocked(Draining)
	s.draining = true
	s.closeIfIdleLocked()
	m.closing.Go(func() {
		<-s.idle
		err := s.servable.Close()
		m.log.Info().Str("version", s.name).AnErr("problem", err).Msg("version unloaded")
		m.mu.Lock()
		defer m.mu.Unlock()
		m.open = slices.DeleteFunc(m.open, func(other *serving) bool { return other == s })
		s.record.leaveLocked(Unloaded)
		m.pruneHistoryLocked()
	})
}

func (r *record) enterLocked(state State) {
	r.status.State, r.status.Since = state, time.Now()
}

func (r *record) failLocked(reason string) {
	r.enterLocked(Failed)
	r.status.Reason = reason
}

// leaveLocked enters a state in which a version no longer serves. One that failed while it served stays Failed, with its
// reason, so that Refresh doesn't load it again.
func (r *record) leaveLocked(state State) {
	if r.status.State != Failed {
		r.enterLocked(state)
	}
}

// pruneHistoryLocked removes the oldest of the records that have ended.
func (m *Model) pruneHistoryLocked() {
	ended := func(r *record) bool {
		return r.status.State.ended() && !slices.ContainsFunc(m.open, func(s *serving) bool { return s.record == r })
	}
	excess := -keptRecords
	for _, r := range m.history {
		if ended(r) {
			excess++
		}
	}
	m.history = slices.DeleteFunc(m.history, func(r *record) bool {
		if excess <= 0 || !ended(r) {
			return false
		}
		excess--
		return true
	})
}
