package rollout

import (
	"context"
	"errors"
	"math"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/servable"
)

// A Comparison is a request that both versions are to process.
type Comparison struct {
	controller  *Controller
	trial       *trial
	byCandidate bool // the candidate answers it
	recording   *servable.Recording
}

// Compare samples a request that the version of lease is about to process. It returns nil if that isn't to be compared.
// Otherwise the caller must call Answered.
func (c *Controller) Compare(lease lifecycle.Lease) *Comparison {
	if !c.sampled() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.trial
	if t == nil || t.traffic(lease) == nil {
		return nil
	}
	if c.comparing == maxComparisons {
		t.skipped++
		return nil
	}
	c.comparing++
	return &Comparison{controller: c, trial: t, byCandidate: lease.Load == t.load, recording: new(servable.Recording)}
}

// Recording is where the request is to be recorded; nil: nowhere.
func (p *Comparison) Recording() *servable.Recording {
	if p == nil {
		return nil
	}
	return p.recording
}

// Answered says that the request's response has been sent, or that it failed, after which it isn't compared.
func (p *Comparison) Answered(succeeded bool) {
	switch {
	case p == nil:
	case succeeded:
		p.controller.answers <- *p // never blocks: it has the capacity of all comparisons
	default:
		p.controller.finished(nil)
	}
}

// finished ends a comparison. add, if set, adds what came out.
func (c *Controller) finished(add func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.comparing--
	if add != nil {
		add()
	}
}

// compareAll runs the comparisons, one at a time, until ctx ends.
func (c *Controller) compareAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-c.answers:
			if c.awaitQuiet(ctx) {
				c.compare(ctx, p)
			}
		}
	}
}

// awaitQuiet returns true as soon as no image waits for the model, or false when ctx ends. So a comparison delays no image
// that is there already; one that comes during the comparison shares the cores with it.
func (c *Controller) awaitQuiet(ctx context.Context) bool {
	for {
		lease, err := c.model.Acquire()
		if err == nil {
			waiting := lease.Waiting()
			lease.Release()
			if waiting == 0 {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-c.done:
		}
	}
}

// compare runs the other version on a request and compares the results.
func (c *Controller) compare(ctx context.Context, p Comparison) {
	t := p.trial
	acquire := c.model.AcquireCandidate
	if p.byCandidate {
		acquire = c.model.Acquire
	}
	lease, err := acquire()
	if err != nil || p.byCandidate == (lease.Load == t.load) {
		if err == nil {
			lease.Release()
		}
		c.finished(nil) // the trial is over
		return
	}
	defer lease.Release()
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	result, stages, err := p.recording.Replay(ctx, lease.Process)
	var busy *batch.BusyError
	if errors.As(err, &busy) {
		c.finished(func() { t.skipped++ })
		return
	}
	squared, equalSizes := meanSquaredError(p.recording.Result, result)
	c.finished(func() {
		of := t.traffic(lease)
		if of != nil {
			of.count(err != nil)
		}
		switch {
		case err != nil || !equalSizes:
			t.failures++
			squared = math.Inf(1)
		default:
			t.addPair(squared)
		}
		if of != nil && err == nil && !c.isCanary() {
			of.time(c.latency(stages))
		}
	})
	if err != nil {
		c.log.Warn().Err(err).Str("version", lease.Version).Msg("a version failed on a request that the other one answered")
	}
	if t.page == nil {
		return
	}
	added := pair{squared: squared, sent: p.recording.Image(), serving: p.recording.Result, candidate: result, failure: err}
	if p.byCandidate {
		added.serving, added.candidate = added.candidate, added.serving
	}
	if err := t.page.add(added); err != nil {
		c.log.Error().Err(err).Msg("can't keep a pair of results")
	}
}
