package model

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// ErrNotReady is Acquire's answer when no version is ready.
var ErrNotReady = errors.New("model: no version is ready")

// keptStatuses is how many versions that are gone or failed are still told of.
const keptStatuses = 20

// Served is a model by its name: the versions that follow each other, of which those that are ready take the requests.
//
// A new version is loaded, checked and warmed beside the one that serves, and takes over in one step: each request
// belongs to the version that it acquired, from its first byte to its answer. The old one answers what it has, then its
// memory is given back. A version that fails changes nothing.
//
// Its methods are safe for concurrent use.
type Served struct {
	source *repository.Source
	host   *Host
	log    zerolog.Logger

	loading  sync.Mutex // one load at a time: it takes memory and cores
	draining sync.WaitGroup

	mu       sync.Mutex
	ready    []*Version // by their numbers; the last is the one that requests get which don't say
	versions []*Version // in the order of their loads; of those that ended, the last keptStatuses
	number   int        // of the last load of a model that has no numbers of its own
	loads    Loads
	unloaded bool // until the next Load
	closed   bool
}

// Loads is how many loads there were.
type Loads struct{ Succeeded, Failed int }

// NewServed makes a Served without a version.
func NewServed(source *repository.Source, host *Host) *Served {
	s := &Served{source: source, host: host, log: host.Log.With().Str("model", source.Name()).Logger()}
	host.Shares.Set(s.Name(), s.peekWeight())
	return s
}

// peekWeight is the weight that the model is going to have, so that a model which is loaded before it knows. What is
// wrong with the model, its load tells.
func (s *Served) peekWeight() int {
	weight := settings.Default().Weight
	listing, err := s.source.List()
	if err != nil {
		return weight
	}
	file, content, err := s.open(listing.Versions[0])
	if err != nil {
		return weight
	}
	defer content.close()
	if said, err := effective(file, listing.Settings, s.host); err == nil {
		weight = said.Weight
	}
	return weight
}

// Name is the model's name.
func (s *Served) Name() string { return s.source.Name() }

// Source is where the model lies.
func (s *Served) Source() *repository.Source { return s.source }

// Acquire returns the newest version that is ready, for one request, whose end the caller tells by Release. Errors:
// ErrNotReady.
func (s *Served) Acquire() (*Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		return nil, ErrNotReady
	}
	v := s.ready[len(s.ready)-1]
	v.use()
	return v, nil
}

// AcquireVersion is Acquire for the version with this number.
func (s *Served) AcquireVersion(number int) (*Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.readyAt(number)
	if at < 0 {
		return nil, ErrNotReady
	}
	s.ready[at].use()
	return s.ready[at], nil
}

// readyAt finds a version among those that are ready, or returns -1; the caller holds the lock.
func (s *Served) readyAt(number int) int {
	return slices.IndexFunc(s.ready, func(v *Version) bool { return v.number == number })
}

// Ready tells whether a version is ready.
func (s *Served) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready) > 0
}

// Load looks what lies at the source and returns when the versions that its settings name serve, and no others. Those
// that serve already, of the same file and settings, just go on. On an error what was ready still is, if nothing else
// can take its place. The errors are those of the source, of the settings and of the function Load, and ErrNotReady after
// Close.
func (s *Served) Load() error {
	s.mu.Lock()
	s.unloaded = false
	s.mu.Unlock()
	return s.load(true)
}

// Refresh is Load after something may have changed at the source: it doesn't try again what has failed and is unchanged,
// nor does it bring back a model that was unloaded.
func (s *Served) Refresh() error {
	s.mu.Lock()
	unloaded := s.unloaded
	s.mu.Unlock()
	if unloaded {
		return nil
	}
	return s.load(false)
}

func (s *Served) load(again bool) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	if s.isClosed() {
		return ErrNotReady
	}
	listing, err := s.source.List()
	if err != nil {
		v := newVersion(s.nextNumber(), origin{})
		s.add(v)
		s.failed(v, err)
		return err
	}
	policy := policyOf(listing.Settings)
	wanted, missing := choose(listing.Versions, policy)
	var served []*Version
	errs := []error{missing}
	// Of the latest so many, one that can't be served gives its place to the next older one.
	for next := 0; next < len(wanted) && (policy.Latest == 0 || len(served) < policy.Latest); {
		upTo := len(wanted)
		if policy.Latest > 0 {
			upTo = min(upTo, next+policy.Latest-len(served))
		}
		group, err := s.provide(wanted[next:upTo], string(listing.Settings), again)
		served = append(served, group...)
		errs = append(errs, err)
		next = upTo
	}
	if len(served) > 0 {
		s.retire(func(v *Version) bool { return !slices.Contains(served, v) })
	}
	return errors.Join(errs...)
}

// policyOf is which versions a model.yaml wants. One that can't be read makes the loads fail, which tell why.
func policyOf(text []byte) settings.Policy {
	said := settings.Default()
	if said.Read(text) != nil {
		return settings.Default().Versions
	}
	return said.Versions
}

// choose returns the versions that a policy may want, the first ones first, and an error for those that aren't there.
func choose(there []repository.Version, policy settings.Policy) ([]repository.Version, error) {
	if policy.Latest > 0 || there[0].Number == 0 {
		return there, nil
	}
	var wanted []repository.Version
	var errs []error
	for _, number := range policy.Numbers {
		at := slices.IndexFunc(there, func(v repository.Version) bool { return v.Number == number })
		if at < 0 {
			errs = append(errs, fmt.Errorf("model: version %d, which %s names, isn't there", number, settings.FileName))
			continue
		}
		wanted = append(wanted, there[at])
	}
	return wanted, errors.Join(errs...)
}

// provide makes versions ready that aren't, and returns those that are in the end. Where one fails whose number is ready
// from an earlier file or by earlier settings, that one counts.
func (s *Served) provide(wanted []repository.Version, text string, again bool) ([]*Version, error) {
	var fresh, served []*Version
	for _, file := range wanted {
		from := origin{file, text}
		switch last := s.lastOf(from); {
		case last != nil && last.Status().State == Ready:
			served = append(served, last)
		case last != nil && last.Status().State == Failed && !again:
			served = append(served, s.readyUnder(last.number)...)
		default:
			number := file.Number
			if number == 0 {
				number = s.nextNumber()
			}
			v := newVersion(number, from)
			s.add(v)
			fresh = append(fresh, v)
		}
	}
	var errs []error
	for _, v := range fresh {
		if err := s.bring(v); err != nil {
			errs = append(errs, err)
			served = append(served, s.readyUnder(v.number)...)
			continue
		}
		served = append(served, v)
	}
	return served, errors.Join(errs...)
}

// bring takes a version through its life until it is ready, or has failed.
func (s *Served) bring(v *Version) error {
	v.enter(Loading)
	s.log.Info().Stringer("version", v).Msg("loading the version")
	model, err := s.loadModel(v)
	if err != nil {
		s.failed(v, err)
		return err
	}
	v.Model = model
	if !s.install(v) {
		v.enter(Gone)
		return errors.Join(ErrNotReady, model.Close())
	}
	s.announce(v)
	return nil
}

func (s *Served) loadModel(v *Version) (*Model, error) {
	file, content, err := s.open(v.origin.file)
	if err != nil {
		return nil, err
	}
	defer content.close()
	said, err := effective(file, []byte(v.origin.settings), s.host)
	if err != nil {
		return nil, err
	}
	if err := checkDigest(content.reader, said.Digest); err != nil {
		return nil, err
	}
	s.host.Shares.Set(s.Name(), said.Weight)
	model, err := Load(s.Name(), file, said, s.host, s.hasServed(), func() { v.enter(Warming) })
	if err != nil {
		return nil, err
	}
	// A file that was written to while it was read is neither the old one nor the new one.
	if err := s.source.Unchanged(v.origin.file); err != nil {
		return nil, errors.Join(err, model.Close())
	}
	return model, nil
}

// content is a file's bytes as they are.
type content struct {
	reader io.Reader
	close  func()
}

// open opens a version's file, which content's close closes.
func (s *Served) open(version repository.Version) (*torch.File, content, error) {
	opened, err := s.source.Open(version)
	if err != nil {
		return nil, content{}, err
	}
	if opened.OS() == nil {
		file := torch.NewBytes(opened.Bytes())
		return file, content{opened, func() { _ = file.Close() }}, nil
	}
	file, err := torch.NewFile(opened.OS())
	if err != nil {
		return nil, content{}, err
	}
	return file, content{opened, func() { _ = file.Close() }}, nil
}

// add makes a version known.
func (s *Served) add(v *Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = append(s.versions, v)
}

// nextNumber numbers loads. 0 stands for a folder as a whole.
func (s *Served) nextNumber() int {
	if s.source.Numbered() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return s.number
}

// hasServed tells whether a version was ready before: the process is serving then.
func (s *Served) hasServed() bool { return s.Loads().Succeeded > 0 }

func (s *Served) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// lastOf returns the last version that was made from this; nil: none was.
func (s *Served) lastOf(from origin) *Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range slices.Backward(s.versions) {
		if v.origin.same(from) {
			return v
		}
	}
	return nil
}

// readyUnder returns the version that is ready under a number, or, of a model without numbers, the one that is ready.
func (s *Served) readyUnder(number int) []*Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.source.Numbered() {
		return slices.Clone(s.ready)
	}
	if at := s.readyAt(number); at >= 0 {
		return []*Version{s.ready[at]}
	}
	return nil
}

// install lets a version take requests, in the place of one with the same number. It tells whether it could: nothing is
// installed after Close.
func (s *Served) install(v *Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	v.enter(Ready)
	s.loads.Succeeded++
	if at := s.readyAt(v.number); at >= 0 {
		s.drain(s.ready[at])
		s.ready[at] = v
		return true
	}
	s.ready = append(s.ready, v)
	slices.SortFunc(s.ready, func(a, b *Version) int { return a.number - b.number })
	return true
}

// retire lets no request come to those versions any more that are unwanted, and drains them.
func (s *Served) retire(unwanted func(*Version) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = slices.DeleteFunc(s.ready, func(v *Version) bool {
		if !unwanted(v) {
			return false
		}
		s.drain(v)
		return true
	})
}

// drain closes a version when it has answered its requests; the caller holds the lock.
func (s *Served) drain(v *Version) {
	v.enter(Draining)
	s.draining.Go(func() {
		err := v.drain()
		torch.ReleaseMemory()
		s.log.Info().Stringer("version", v).AnErr("problem", err).Msg("the version is gone")
		s.forget()
	})
}

// failed makes a load one that has failed.
func (s *Served) failed(v *Version, reason error) {
	v.fail(reason)
	s.mu.Lock()
	s.loads.Failed++
	s.mu.Unlock()
	s.log.Error().Err(reason).Stringer("version", v).Msg("the version can't be served")
	s.forget()
}

// forget leaves out the oldest versions that have ended.
func (s *Served) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := 0
	for _, v := range s.versions {
		if v.Status().State.ended() {
			ended++
		}
	}
	s.versions = slices.DeleteFunc(s.versions, func(v *Version) bool {
		if ended <= keptStatuses || !v.Status().State.ended() {
			return false
		}
		ended--
		return true
	})
}

// announce logs what has become ready.
func (s *Served) announce(v *Version) {
	if err := v.WarmUp().Err; err != nil {
		s.log.Warn().Err(err).Msg("the warm-up failed; pictures of another size may work")
	}
	if v.settings.MaxQueueSize < v.settings.MaxBatchSize {
		s.log.Warn().Int("max_queue_size", v.settings.MaxQueueSize).Int("max_batch_size", v.settings.MaxBatchSize).Msg("the queue is smaller than a batch, so no batch can fill")
	}
	info := v.Info()
	s.log.Info().Stringer("version", v).Stringer("from", s.source).Int64("parameters", info.Parameters).
		Stringer("size", v.settings.Size).Str("device", v.Devices()).Stringer("precision", info.Precision).
		Int("instances", v.Instances()).Int("threads", v.Threads()).Dur("warm_up_ms", v.WarmUp().Took.Round(time.Millisecond)).
		Msg("the version is ready")
}

// Unload lets no version take requests any more, until the next Load. Errors: ErrNotReady when none does.
func (s *Served) Unload() error {
	if !s.Ready() {
		return fmt.Errorf("%w of %s", ErrNotReady, s.Name())
	}
	s.mu.Lock()
	s.unloaded = true
	s.mu.Unlock()
	s.retire(func(*Version) bool { return true })
	return nil
}

// Versions are those that are ready, by their numbers. They live until the next change of what is served.
func (s *Served) Versions() []*Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ready)
}

// Loads tells how many loads there were.
func (s *Served) Loads() Loads {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads
}

// Statuses tells of the versions, in the order of their loads.
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
	s.retire(func(*Version) bool { return true })
	s.draining.Wait()
}
