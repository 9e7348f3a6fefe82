package lifecycle

import (
	"errors"
	"fmt"
	"slices"
)

// HoldCandidates makes new versions wait as candidates from now on; see the package's contract. It must be called before
// the first Reload.
func (m *Model) HoldCandidates() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hold = true
}

// AnyLoad stands for the candidate, or the default, of whatever load.
const AnyLoad = 0

// Promote makes the candidate of a load ready, and returns when the versions that it replaces drain. Errors: ErrNoCandidate;
// those of Refresh, which leave the candidate ready.
func (m *Model) Promote(load int) error {
	m.mu.Lock()
	promoted := m.isCandidateLocked(load) && m.promoteLocked()
	m.mu.Unlock()
	if !promoted {
		return fmt.Errorf("promote %s: %w", m.Name(), ErrNoCandidate)
	}
	return m.Refresh()
}

// promoteLocked makes the candidate ready, if there is one that hasn't failed.
func (m *Model) promoteLocked() bool {
	s := m.candidate
	if s == nil || s.record.status.State == Failed {
		return false
	}
	m.log.Info().Str("version", s.name).Msg("candidate promoted")
	m.candidate = nil
	m.makeReadyLocked(s)
	return true
}

// isCandidateLocked reports whether a load's version is the candidate.
func (m *Model) isCandidateLocked(load int) bool {
	return m.candidate != nil && (load == AnyLoad || m.candidate.record.load == load)
}

// Rollback ends the candidate of a load. With AnyLoad and without a candidate, it brings back an older version in place of
// the default, and returns when that is ready. The version that was rolled back has failed for this reason, so only Reload
// loads it again. Errors: ErrNoCandidate; ErrNotReady; ErrNoOlder, after which the default serves as before.
func (m *Model) Rollback(load int, reason string) error {
	m.mu.Lock()
	if load != AnyLoad && !m.isCandidateLocked(load) {
		m.mu.Unlock()
		return fmt.Errorf("roll %s back: %w", m.Name(), ErrNoCandidate)
	}
	s := m.candidate
	isCandidate := s != nil
	if !isCandidate {
		s = m.defaultLocked()
	}
	if s == nil || s.record.status.State == Failed {
		m.mu.Unlock()
		return fmt.Errorf("roll %s back: %w", m.Name(), ErrNotReady)
	}
	before := s.record.status
	s.record.failLocked(reason)
	if isCandidate {
		m.withdrawLocked()
	}
	m.mu.Unlock()
	m.log.Warn().Str("version", s.name).Str("reason", reason).Msg("version rolled back")
	if isCandidate {
		return nil
	}
	err := m.Refresh()
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.draining {
		return nil
	}
	if s.record.status.Reason == reason { // else it has failed by itself meanwhile
		s.record.status = before
	}
	return errors.Join(fmt.Errorf("roll %s back: %w", m.Name(), ErrNoOlder), err)
}

// withdrawLocked drains the candidate, if there is one.
func (m *Model) withdrawLocked() {
	if s := m.candidate; s != nil {
		m.candidate = nil
		m.drainLocked(s)
	}
}

// becomesCandidateLocked reports whether a version with this number becomes the candidate when it is loaded.
func (m *Model) becomesCandidateLocked(number int) bool {
	current := m.defaultLocked()
	return m.hold && current != nil && current.record.status.State == Ready && number >= current.number()
}

// isSkipped reports whether a wanted version isn't to be loaded, because a newer one is the candidate.
func (m *Model) isSkipped(number int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.candidate != nil && number < m.candidate.number() && m.becomesCandidateLocked(number)
}

// keep adds the records of those versions among a group of wanted ones that are ready to kept, and returns the candidate's
// record if that is in the group. Then the default is kept as well. If that has failed, the candidate takes its place.
func (m *Model) keep(kept, group []*record) (_ []*record, candidate *record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.candidate != nil && slices.Contains(group, m.candidate.record) {
		candidate = m.candidate.record
		current := m.defaultLocked()
		switch {
		case current == nil || current.record.status.State == Failed:
			m.promoteLocked()
		case !slices.Contains(kept, current.record) && !slices.Contains(group, current.record):
			kept = append(kept, current.record)
		}
	}
	for _, r := range group {
		if r.status.State == Ready {
			kept = append(kept, r)
		}
	}
	return kept, candidate
}

// retire drains the versions that aren't wanted: all ready ones but those in kept, unless that is empty, and the candidate
// unless it is the given one, which may have been promoted meanwhile; nil: none is wanted.
func (m *Model) retire(generation int, kept []*record, candidate *record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.generation != generation {
		return
	}
	if m.candidate != nil && m.candidate.record != candidate {
		m.withdrawLocked()
	}
	if len(kept) > 0 {
		m.retireLocked(append(kept, candidate))
	}
}
