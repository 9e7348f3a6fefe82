package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// Reload lists the source and returns when the versions that the policy wants are ready, or failed. It tries failed
// versions again and brings back a model that was unloaded.
//
// Errors: those of the source, of the settings and of the loader, joined; ErrClosed; ErrOvertaken.
func (m *Model) Reload() error {
	m.mu.Lock()
	m.unloaded = false
	generation := m.generation
	m.reconciling++
	m.mu.Unlock()
	return m.reconcile(generation, true)
}

// Refresh is Reload for when something may have changed at the source: it doesn't try failed versions again while they
// are unchanged, and leaves a model unloaded.
func (m *Model) Refresh() error {
	m.mu.Lock()
	unloaded, generation := m.unloaded, m.generation
	if !unloaded {
		m.reconciling++
	}
	m.mu.Unlock()
	if unloaded {
		return nil
	}
	return m.reconcile(generation, false)
}

// reconcile makes the wanted versions ready and drains the others. Its caller has raised m.reconciling.
func (m *Model) reconcile(generation int, retry bool) error {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.reconciling--
	}()
	m.supersede()
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	for {
		err := m.reconcileOnce(generation, retry)
		if !errors.Is(err, errSuperseded) {
			return err
		}
	}
}

// supersede cancels the load under way by sentence 5 of the contract.
func (m *Model) supersede() {
	m.mu.Lock()
	load := m.load
	m.mu.Unlock()
	if load == nil {
		return
	}
	listing, err := m.source.List()
	if err != nil || m.comesFirst(load.record, listing) {
		return // a source that can't be read says nothing about the load
	}
	m.log.Info().Stringer("version", load.record).Msg("cancelling the load: other versions are wanted now")
	load.cancel(errSuperseded)
}

// comesFirst reports whether a version that is being loaded is wanted, and no newer wanted one is untried.
func (m *Model) comesFirst(loading *record, listing repository.Listing) bool {
	wanted, _ := wantedVersions(listing.Versions, policyOf(listing.Settings))
	for _, file := range wanted {
		from := origin{file, string(listing.Settings)}
		if from == loading.origin {
			return true
		}
		if _, state := m.lastOf(from); state != Ready && state != Candidate && state != Failed {
			return false
		}
	}
	return false
}

// warnOfSlips logs what is new among the files that are ignored because of their names.
func (m *Model) warnOfSlips(slips []string) {
	m.mu.Lock()
	before := m.slips
	m.slips = slips
	m.mu.Unlock()
	for _, slip := range slips {
		if !slices.Contains(before, slip) {
			m.log.Warn().Stringer("folder", m.source).Msg(slip)
		}
	}
}

// reconcileOnce is reconcile for one listing. It returns errSuperseded if another one is needed.
func (m *Model) reconcileOnce(generation int, retry bool) error {
	if err := m.overtaken(generation); err != nil {
		return err
	}
	listing, err := m.source.List()
	if err != nil {
		m.fail(m.newRecord(m.nextNumber(), origin{}), err)
		return err
	}
	m.warnOfSlips(listing.Slips)
	policy := policyOf(listing.Settings)
	wanted, missing := wantedVersions(listing.Versions, policy)
	var (
		kept      []*record
		candidate *record
	)
	errs := []error{missing}
	// With "latest N", a version that can't be served gives its place to the next older one. A candidate has no place yet.
	for next := 0; next < len(wanted) && (policy.Latest == 0 || len(kept) < policy.Latest); {
		end := len(wanted)
		if policy.Latest > 0 {
			end = min(end, next+policy.Latest-len(kept))
		}
		group, err := m.ensureReady(generation, wanted[next:end], string(listing.Settings), retry)
		if errors.Is(err, errSuperseded) {
			return err
		}
		var waiting *record
		if kept, waiting = m.keep(kept, group); waiting != nil {
			candidate = waiting
		}
		errs = append(errs, err)
		next = end
		if err := m.overtaken(generation); err != nil {
			return err
		}
	}
	m.retire(generation, kept, candidate)
	return errors.Join(errs...)
}

// overtaken returns ErrClosed or ErrOvertaken if Close or Unload came after the generation.
func (m *Model) overtaken(generation int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ctx.Err() != nil:
		return ErrClosed
	case m.generation != generation:
		return ErrOvertaken
	}
	return nil
}

// ensureReady loads the versions that aren't ready yet, and returns those that are ready or the candidate in the end. Where
// a version fails whose number is ready from an earlier file or with earlier settings, that one is kept.
func (m *Model) ensureReady(generation int, wanted []repository.Version, text string, retry bool) ([]*record, error) {
	var fresh, ready []*record
	for _, file := range wanted {
		from := origin{file, text}
		switch last, state := m.lastOf(from); {
		case state == Ready || state == Candidate:
			ready = append(ready, last)
		case state == Failed && !retry:
			ready = append(ready, m.readyInPlaceOf(last)...)
		case file.Number > 0 && m.isSkipped(file.Number):
		default:
			number := file.Number
			if number == 0 {
				number = m.nextNumber()
			}
			fresh = append(fresh, m.newRecord(number, from))
		}
	}
	var errs []error
	for i, r := range fresh {
		if m.isSkipped(r.status.Version) {
			m.dismiss(r)
			continue
		}
		err := m.loadVersion(generation, r)
		switch {
		case err == nil:
			ready = append(ready, r)
		case errors.Is(err, errSuperseded):
			for _, later := range fresh[i+1:] {
				m.dismiss(later)
			}
			return nil, err
		case m.overtaken(generation) == nil:
			errs = append(errs, err)
			ready = append(ready, m.readyInPlaceOf(r)...)
		}
	}
	return ready, errors.Join(errs...)
}

// loadVersion takes a version through its life until it is ready, has failed, was superseded or overtaken.
func (m *Model) loadVersion(generation int, r *record) error {
	ctx, cancel := context.WithCancelCause(m.ctx)
	defer cancel(nil)
	if m.timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, m.timeout, fmt.Errorf("the load took longer than %v (--load-timeout)", m.timeout))
		defer stop()
	}
	err := m.beginLoad(generation, &load{r, cancel})
	var loaded Servable
	if err == nil {
		loaded, err = m.callLoader(ctx, r)
	}
	if err == nil && m.install(generation, r, loaded) {
		m.logLoaded(r, loaded.Description())
		return nil
	}
	if overtaken := m.overtaken(generation); overtaken != nil {
		m.dismiss(r)
		if err == nil {
			return errors.Join(overtaken, loaded.Close())
		}
		return overtaken
	}
	if errors.Is(err, errSuperseded) {
		m.dismiss(r)
		return err
	}
	m.fail(r, err)
	return err
}

// beginLoad lets others cancel the load that follows. It returns an error if there must be no load.
func (m *Model) beginLoad(generation int, l *load) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.generation != generation:
		return ErrOvertaken
	case m.abandoned >= maxAbandoned:
		return errTooManyHang
	}
	m.load = l
	l.record.enterLocked(Loading)
	return nil
}

// callLoader loads a version. When ctx ends, it returns the cause of ctx at the latest after cancelTime.
func (m *Model) callLoader(ctx context.Context, r *record) (Servable, error) {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.load = nil
	}()
	m.log.Info().Stringer("version", r).Msg("loading version")
	request := loader.Request{
		Version: r.origin.file, Settings: r.origin.settings, Background: m.Counts().Succeeded > 0,
		Warming: func() { m.warming(r) },
	}
	returned := make(chan loadResult, 1)
	go func() {
		loaded, err := m.loader.Load(ctx, request)
		returned <- loadResult{loaded, err}
	}()
	select {
	case result := <-returned:
		return result.unlessEnded(ctx)
	case <-ctx.Done():
	}
	timer := time.NewTimer(cancelTime)
	defer timer.Stop()
	select {
	case result := <-returned:
		return result.unlessEnded(ctx)
	case <-timer.C:
		m.abandon(r, returned)
		return nil, fmt.Errorf("%w; the load hangs, and its thread can't be stopped", context.Cause(ctx))
	}
}

// A loadResult is what a load returned.
type loadResult struct {
	servable Servable
	err      error
}

// unlessEnded returns the result, or the cause of ctx if that has ended.
func (l loadResult) unlessEnded(ctx context.Context) (Servable, error) {
	if ctx.Err() == nil {
		return l.servable, l.err
	}
	if l.err == nil {
		return nil, errors.Join(context.Cause(ctx), l.servable.Close())
	}
	return nil, context.Cause(ctx)
}

// abandon closes what a load returns that no one waits for any longer.
func (m *Model) abandon(r *record, returned <-chan loadResult) {
	m.mu.Lock()
	m.abandoned++
	m.mu.Unlock()
	m.log.Error().Stringer("version", r).Msg("a cancelled load doesn't return; its thread, and perhaps a core and the memory of a model, stay in use until it does or the server restarts")
	go func() {
		result := <-returned
		err := result.err
		if err == nil {
			err = result.servable.Close()
		}
		m.log.Warn().Stringer("version", r).AnErr("problem", err).Msg("a load that hung has returned")
		m.mu.Lock()
		defer m.mu.Unlock()
		m.abandoned--
	}()
}

// warming records that a load has read its file, unless the load is no longer wanted.
func (m *Model) warming(r *record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.status.State == Loading {
		r.enterLocked(Warming)
	}
}

// install makes a version ready or the candidate. It returns false, and changes nothing, if the load was overtaken.
func (m *Model) install(generation int, r *record, loaded Servable) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.generation != generation {
		return false
	}
	s := &serving{record: r, name: r.String(), servable: loaded, idle: make(chan struct{})}
	findings := loaded.Description().Findings
	r.status.Warnings = findings.Warnings()
	m.counts.Succeeded++
	m.open = append(m.open, s)
	if failed := loaded.Failed(); failed != nil {
		go m.awaitFailure(s, failed)
	}
	if m.becomesCandidateLocked(s.number()) {
		m.withdrawLocked()
		m.candidate = s
		r.enterLocked(Candidate)
		return true
	}
	m.makeReadyLocked(s)
	return true
}

// makeReadyLocked puts a version into routing, in place of one with the same number.
func (m *Model) makeReadyLocked(s *serving) {
	s.record.enterLocked(Ready)
	if at := m.readyIndexLocked(s.number()); at >= 0 {
		m.drainLocked(m.ready[at])
		m.ready[at] = s
		return
	}
	m.ready = append(m.ready, s)
	slices.SortFunc(m.ready, func(a, b *serving) int { return a.number() - b.number() })
}

// awaitFailure replaces a version by others when it fails while it serves.
func (m *Model) awaitFailure(s *serving, failed <-chan error) {
	var reason error
	select {
	case reason = <-failed:
	case <-s.idle:
	}
	m.mu.Lock()
	if reason == nil || s.draining {
		m.mu.Unlock()
		return
	}
	s.record.failLocked(reason.Error())
	m.mu.Unlock()
	m.log.Error().Err(reason).Str("version", s.name).Msg("a version that serves has failed; looking for another one")
	err := m.Refresh()
	m.mu.Lock()
	replaced := s.draining
	m.mu.Unlock()
	if !replaced {
		m.log.Error().Err(err).Str("version", s.name).Msg("no other version can take the place of the failed one, so it stays")
	}
}

// dismiss records that a version isn't served, because others are wanted.
func (m *Model) dismiss(r *record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.enterLocked(Unloaded)
	m.pruneHistoryLocked()
}

// fail records and logs a failed load.
func (m *Model) fail(r *record, reason error) {
	m.log.Error().Err(reason).Stringer("version", r).Msg("version failed to load")
	m.mu.Lock()
	defer m.mu.Unlock()
	r.failLocked(reason.Error())
	m.counts.Failed++
	m.pruneHistoryLocked()
}

// newRecord adds a version to the history.
func (m *Model) newRecord(number int, from origin) *record {
	r := &record{status: Status{Version: number}, origin: from}
	r.enterLocked(Queued) // not shared yet
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loads++
	r.load = m.loads
	m.history = append(m.history, r)
	return r
}

// nextNumber numbers the loads of a model whose versions have no numbers of their own. For others it is 0, the source as
// a whole.
func (m *Model) nextNumber() int {
	if m.source.Numbered() {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number++
	return m.number
}

// lastOf returns the last version that was made from this origin, and its state; nil and "" if there is none.
func (m *Model) lastOf(from origin) (*record, State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range slices.Backward(m.history) {
		if r.origin == from {
			return r, r.status.State
		}
	}
	return nil, ""
}

// readyInPlaceOf returns what is ready instead of a version that failed: the version with the same number, or, where
// versions have no numbers of their own, all that are ready; without those that failed while they served.
func (m *Model) readyInPlaceOf(failed *record) []*record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ready []*record
	for _, s := range m.ready {
		if s.record.status.State == Ready && (!m.source.Numbered() || s.record.status.Version == failed.status.Version) {
			ready = append(ready, s.record)
		}
	}
	return ready
}

// logLoaded logs what became ready or the candidate.
func (m *Model) logLoaded(r *record, d loader.Description) {
	if d.WarmUp.Err != nil {
		m.log.Warn().Err(d.WarmUp.Err).Stringer("version", r).Msg("warm-up failed; images of another size may work")
	}
	for _, warning := range d.Findings.Warnings() {
		m.log.Warn().Stringer("version", r).Str("warning", warning).Msg("version with a peculiarity")
	}
	if d.Settings.MaxQueueSize < d.Settings.MaxBatchSize {
		m.log.Warn().Int("max_queue_size", d.Settings.MaxQueueSize).Int("max_batch_size", d.Settings.MaxBatchSize).Msg("the queue is smaller than a batch, so no batch can be full")
	}
	message := "version ready"
	if lease, err := m.AcquireCandidate(); err == nil {
		if lease.Load == r.load {
			message = "version loaded as a candidate"
		}
		lease.Release()
	}
	m.log.Info().Stringer("version", r).Stringer("from", m.source).Int64("parameters", d.Parameters).
		Stringer("size", d.Settings.Size).Str("device", d.Devices).Stringer("precision", d.Precision).
		Int("instances", d.Instances).Int("threads", d.Threads).Dur("warm_up_ms", d.WarmUp.Duration.Round(time.Millisecond)).
		Msg(message)
}

// policyOf returns the policy of a model.yaml. If it can't be read, the loads fail with the reason, so the default does.
func policyOf(text []byte) settings.Policy {
	cfg := settings.Default()
	if cfg.Read(text) != nil {
		return settings.Default().Versions
	}
	return cfg.Versions
}

// A missingError is a version that the settings name and the source doesn't have.
type missingError int

func (e missingError) Error() string {
	return "version " + strconv.Itoa(int(e)) + " is named in " + settings.FileName + " but not found"
}

// wantedVersions returns the versions that a policy may want, in order of preference, and an error for those not found.
func wantedVersions(found []repository.Version, policy settings.Policy) ([]repository.Version, error) {
	if policy.Latest > 0 || found[0].Number == 0 {
		return found, nil
	}
	var wanted []repository.Version
	var errs []error
	for _, number := range slices.Backward(policy.Numbers) { // a hanging load must not delay a newer version's
		at := slices.IndexFunc(found, func(v repository.Version) bool { return v.Number == number })
		if at < 0 {
			errs = append(errs, missingError(number))
			continue
		}
		wanted = append(wanted, found[at])
	}
	return wanted, errors.Join(errs...)
}
