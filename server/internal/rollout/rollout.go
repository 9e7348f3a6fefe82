// Package rollout compares a model's new version with the one that serves, on real requests, and moves traffic to it step by
// step, or back.
//
// The new version is the model's candidate (see package lifecycle). A share of the requests is processed by both versions:
// by one for the response, and by the other one after the response has been sent. The results give PSNR, failures and
// latencies. In a canary, the candidate also answers a share of the clients, which grows with each step while the rules
// hold.
package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/servable"
)

const (
	// lookTime is how often the rules are judged.
	lookTime = time.Second
	// maxComparisons bounds the comparisons under way, of which each keeps an image as sent and a result.
	maxComparisons = 4
	// compareTime limits the second version's run.
	compareTime = time.Minute
)

// A Controller follows one model's candidates. Its methods are safe for concurrent use.
type Controller struct {
	model *lifecycle.Model
	plan  Plan
	log   zerolog.Logger
	// done signals that a request is done, after which the queue may be empty.
	done    chan struct{}   // capacity 1
	answers chan Comparison // capacity maxComparisons

	mu        sync.Mutex
	trial     *trial // nil: no candidate
	last      *Report
	comparing int // comparisons under way
}

// A trial is the time of one candidate.
type trial struct {
	load    int    // the candidate's; see lifecycle.Lease
	version string // its number
	against string // the number of the version that served at the beginning
	began   time.Time
	step    int // index of Plan.Steps
	stepped time.Time
	evidence
	lacks []string // evidence for which the step waits
	page  *page    // nil: none
}

// New returns a Controller and makes the model hold its candidates back. It must be called before the model's first Reload.
func New(model *lifecycle.Model, plan Plan, log zerolog.Logger) *Controller {
	model.HoldCandidates()
	return &Controller{
		model: model, plan: plan, log: log.With().Str("model", model.Name()).Logger(),
		done: make(chan struct{}, 1), answers: make(chan Comparison, maxComparisons),
	}
}

// Run follows the candidates until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var comparer sync.WaitGroup
	comparer.Go(func() { c.compareAll(ctx) })
	defer comparer.Wait()
	ticker := time.NewTicker(lookTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.look(time.Now()) //nolint:contextcheck // loads have the model's context, which Close ends
		}
	}
}

// Acquire returns the version that answers a client's request. A client is known by its key. The caller must Release it.
// Errors: lifecycle.ErrNotReady.
func (c *Controller) Acquire(key string) (lifecycle.Lease, error) {
	share, load := c.routing(key)
	if share {
		lease, err := c.model.AcquireCandidate()
		if err == nil && lease.Load == load {
			return lease, nil
		}
		if err == nil {
			lease.Release()
		}
	}
	return c.model.Acquire()
}

// routing reports whether the candidate of a load answers a client.
func (c *Controller) routing(key string) (byCandidate bool, load int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trial == nil || !c.isCanary() {
		return false, 0
	}
	return position(c.model.Name(), c.trial.version, key) < c.plan.Steps[c.trial.step], c.trial.load
}

// position returns a client's place, from 0 to below 1, in the order in which clients come to the candidate. It is the same
// on all servers and in all steps, and differs from version to version.
func position(model, version, key string) float64 {
	hash := sha256.New()
	for _, text := range []string{model, version, key} {
		_ = binary.Write(hash, binary.LittleEndian, uint64(len(text))) // a hash never fails
		_, _ = hash.Write([]byte(text))
	}
	return float64(binary.LittleEndian.Uint64(hash.Sum(nil))>>11) / (1 << 53)
}

// An Outcome is how a request ended.
type Outcome int

// Neither is a request that says nothing about its version, such as one with an unusable image or one that was refused.
const (
	Neither Outcome = iota
	Succeeded
	Failed // by the version's fault
)

// Processed records how a version of the model did with a request. The version needn't come from Acquire.
func (c *Controller) Processed(lease lifecycle.Lease, stages servable.Stages, outcome Outcome) {
	select {
	case c.done <- struct{}{}:
	default:
	}
	if outcome == Neither {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.trial; t != nil {
		if of := t.traffic(lease); of != nil {
			of.count(outcome == Failed)
			if outcome == Succeeded {
				of.time(c.latency(stages))
			}
		}
	}
}

// traffic returns the evidence about the version of a lease; nil: it is neither of the two.
func (t *trial) traffic(lease lifecycle.Lease) *traffic {
	switch {
	case lease.Load == t.load:
		return &t.candidate
	case lease.Version == t.against && !lease.Candidate:
		return &t.serving
	}
	return nil
}

// latency is the part of a request's time for which its version accounts. In a canary that includes the queue. Without one,
// the candidate runs alone, and has none.
func (c *Controller) latency(s servable.Stages) time.Duration {
	sum := s.Decode + s.Forward + s.Encode
	if c.isCanary() {
		sum += s.Queue
	}
	return sum
}

func (c *Controller) isCanary() bool { return len(c.plan.Steps) > 0 }

// look begins and ends trials, and takes their steps.
func (c *Controller) look(now time.Time) {
	lease, err := c.model.AcquireCandidate()
	load := 0
	if err == nil {
		defer lease.Release()
		load = lease.Load
	}
	c.mu.Lock()
	t := c.trial
	if t != nil && t.load != load {
		c.endLocked("the candidate was promoted, rolled back or replaced")
		t = nil
	}
	if t == nil && load != 0 {
		c.beginLocked(lease, now)
	}
	t = c.trial
	if t == nil || !c.isCanary() {
		c.mu.Unlock()
		return
	}
	broken := c.judgeLocked(t)
	due := broken == "" && len(t.lacks) == 0 && now.Sub(t.stepped) >= c.plan.StepTime
	last := t.step == len(c.plan.Steps)-1
	if due && !last {
		c.stepLocked(t, now)
	}
	c.mu.Unlock()
	switch {
	case broken != "":
		c.end(broken, func() error { return c.model.Rollback(load, broken) })
	case due && last:
		c.end("promoted after its last step", func() error { return c.model.Promote(load) })
	}
}

func (c *Controller) beginLocked(lease lifecycle.Lease, now time.Time) {
	t := &trial{load: lease.Load, version: lease.Version, began: now, stepped: now, evidence: newEvidence()}
	if versions := c.model.ReadyVersions(); len(versions) > 0 {
		t.against = versions[len(versions)-1].Version
	}
	if c.plan.EvidenceDir != "" {
		var err error
		if t.page, err = newPage(c.plan.EvidenceDir, pageHeading{c.model.Name(), t.version, t.against}); err != nil {
			t.page = nil
			c.log.Error().Err(err).Msg("can't keep the worst pairs of results")
		}
	}
	c.trial = t
	event := c.log.Info().Str("version", t.version).Str("against", t.against).Float64("shadow", c.plan.Shadow)
	if c.isCanary() {
		event.Float64("share", c.plan.Steps[0])
	}
	event.Msg("candidate being compared")
}

// judgeLocked returns by which rule the candidate must go back, and by how much; empty: none.
func (c *Controller) judgeLocked(t *trial) (broken string) {
	t.lacks = nil
	for _, rule := range c.plan.Rules {
		finding := rule.judge(&t.evidence)
		if finding.broken != "" {
			return "the rule " + rule.String() + " is broken: " + finding.broken
		}
		if finding.lacks != "" {
			t.lacks = append(t.lacks, rule.String()+": "+finding.lacks)
		}
	}
	return ""
}

func (c *Controller) stepLocked(t *trial, now time.Time) {
	t.step++
	t.stepped = now
	t.candidate = traffic{latencies: newLatencies()}
	c.log.Info().Str("version", t.version).Int("step", t.step+1).Float64("share", c.plan.Steps[t.step]).Msg("canary step")
}

// end ends the trial by a change of the model.
func (c *Controller) end(outcome string, change func() error) {
	if err := change(); err != nil { // an operator came first, or the promoted version's predecessors can't be found
		c.log.Error().Err(err).Str("outcome", outcome).Msg("rollout")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(outcome)
}

func (c *Controller) endLocked(outcome string) {
	if c.trial == nil {
		return
	}
	report := c.reportLocked()
	report.Outcome = outcome
	c.last, c.trial = report, nil
	c.log.Info().Str("version", report.Version).Uint64("pairs", report.Pairs).Str("outcome", outcome).Msg("candidate no longer compared")
}

// A Report is what is known of a candidate.
type Report struct {
	Version string    `json:"version"`
	Against string    `json:"against"` // the version that served when it came
	Since   time.Time `json:"since"`
	// Outcome is how the comparison ended; empty: it goes on.
	Outcome string `json:"outcome,omitempty"`

	Share float64  `json:"share"`           // of the clients that it answers
	Step  int      `json:"step,omitempty"`  // of the canary, from 1
	Steps int      `json:"steps,omitempty"` // 0: no canary
	Waits []string `json:"waits,omitempty"` // evidence that the step lacks

	Candidate Traffic `json:"candidate"` // in this step
	Serving   Traffic `json:"serving"`

	Pairs     uint64   `json:"pairs"`              // of results that were compared
	Failures  uint64   `json:"failures"`           // pairs without two results of one size
	Skipped   uint64   `json:"skipped"`            // sampled requests that weren't compared, since the server was busy
	PSNR      *float64 `json:"psnr_db,omitempty"`  // of all pairs together; 100: they are equal
	WorstPSNR *float64 `json:"worst_db,omitempty"` // of the pair that differs most
	Page      string   `json:"page,omitempty"`     // file with the worst pairs
}

// Traffic is how a version did with requests.
type Traffic struct {
	Requests uint64  `json:"requests"` // that it processed, for clients or for comparison
	Errors   uint64  `json:"errors"`
	P50      float64 `json:"p50_ms"` // of decode, queue, forward and encode together
	P99      float64 `json:"p99_ms"`
}

// Report describes the candidate, or the last one; nil: there has been none.
func (c *Controller) Report() *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trial == nil {
		return c.last
	}
	return c.reportLocked()
}

func (c *Controller) reportLocked() *Report {
	t := c.trial
	r := &Report{
		Version: t.version, Against: t.against, Since: t.began, Steps: len(c.plan.Steps), Waits: t.lacks,
		Candidate: t.candidate.report(), Serving: t.serving.report(),
		Pairs: t.pairs, Failures: t.failures, Skipped: t.skipped,
	}
	if r.Steps > 0 {
		r.Step, r.Share = t.step+1, c.plan.Steps[t.step]
	}
	if t.pairs > 0 {
		mean, worst := t.mean(), psnr(t.worst)
		r.PSNR, r.WorstPSNR = &mean, &worst
	}
	if t.page != nil {
		r.Page = t.page.file
	}
	return r
}

func (t *traffic) report() Traffic {
	return Traffic{Requests: t.requests, Errors: t.errors, P50: t.quantile(0.5), P99: t.quantile(0.99)}
}

// sampled reports whether a request is to be compared.
func (c *Controller) sampled() bool { return rand.Float64() < c.plan.Shadow }
