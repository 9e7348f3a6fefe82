// Package tune finds the settings by which a server answers the most pictures a second on this machine.
//
// # How it searches
//
// A full grid would take hours with a large model, so the search goes along one setting at a time, from serve's
// defaults on: the size of batches up (or else down) as long as it helps, how the cores are shared by instances, the
// precision, the waiting. It begins again where it has come to, until a whole turn finds nothing better. The waiting
// comes last because it matters least, and the budget may end.
//
// Then the best of them and the defaults are measured again in interleaved rounds, whose medians count. What lies
// within the noise of the fastest is as fast as it; of those the one that is closest to the defaults is taken.
package tune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// A Config says what is looked for. Fields have no defaults but those that they name.
type Config struct {
	Model   string   // as serve takes it; "": the bundled one
	Passed  []string // further arguments of serve, which stay as they are
	Clients int      // that send pictures, each the next one when it has its answer: 1 to loadgen.MaxClients
	Cores   int      // that the server may use
	// TargetP99 is what the 99th percentile of the latencies may be at most; 0: anything.
	TargetP99 time.Duration
	// MinPSNR is what the answers of another precision must keep of those of fp32, in dB.
	MinPSNR float64
	// KeepPrecision leaves the precision alone: the model has one of its own.
	KeepPrecision bool
	// Duration is how long a round takes at least, roughly, after the server has been started: up to loadgen.MaxDuration.
	Duration time.Duration
	// Budget is how long all of it may take.
	Budget time.Duration
}

// Validate says what is wrong with the configuration, if anything is.
func (c *Config) Validate() error {
	switch {
	case c.Clients < 1 || c.Clients > loadgen.MaxClients:
		return fmt.Errorf("clients %d: there must be 1 to %d", c.Clients, loadgen.MaxClients)
	case c.TargetP99 < 0:
		return fmt.Errorf("target p99 %v: it must be 0s (none) or more", c.TargetP99)
	case !(c.MinPSNR >= 0 && c.MinPSNR <= MaxPSNR): // NaN too
		return fmt.Errorf("min psnr %v: it must be 0 to %d dB", c.MinPSNR, MaxPSNR)
	case c.Duration <= 0 || c.Duration > loadgen.MaxDuration:
		return fmt.Errorf("duration %v: it must be above 0s and at most %v", c.Duration, loadgen.MaxDuration)
	case c.Budget <= 0:
		return fmt.Errorf("budget %v: it must be above 0s", c.Budget)
	}
	return nil
}

// A Measurement is what one round found. All its pictures were answered well.
type Measurement struct {
	ImagesPerSecond float64 `json:"pictures_per_second"`
	P50             float64 `json:"p50_ms"`
	P99             float64 `json:"p99_ms"`
	// PSNR compares the answers with those of fp32, in dB: the least of all pictures, MaxPSNR at most. It is 0 where
	// the precision is fp32.
	PSNR    float64 `json:"psnr_db"`
	Threads int     `json:"threads"` // that a forward used, where Settings leaves it to the server
	CUDA    bool    `json:"cuda"`    // the server ran the model on a GPU
	// FellBehind says why the load generator couldn't keep up, so that the server may do more; "": it could.
	FellBehind string `json:"fell_behind"`
}

// A Measurer measures settings. Measure calls sending when the server is ready, and then about once a second. Its
// error says why the settings can't be used, unless the context has ended.
type Measurer interface {
	Measure(ctx context.Context, settings Settings, sending func(loadgen.Progress)) (Measurement, error)
}

// A Trial is what became of some settings.
type Trial struct {
	Settings    Settings `json:"settings"`
	Measurement          // the search's or, if there were interleaved rounds, the medians of those
	Rounds      int      `json:"rounds"`  // interleaved ones
	Failure     string   `json:"failure"` // why they can't be used; "": they can

	rounds []Measurement // interleaved
	took   time.Duration // the last measuring, the server's start included
}

// A Progress is what is being done.
type Progress struct {
	Elapsed  time.Duration
	Round    int // counts from 1, over all settings
	Settings Settings
	Stage    Stage
	Load     loadgen.Progress // when Sending
	Measured Measurement      // when Done
	Err      error            // when Done: why there is no measurement
}

// A Stage of a round.
type Stage int

// Stages in their order. Sending is told again and again.
const (
	Starting Stage = iota
	Sending
	Done
)

// searchShare is the part of the budget that the search may take; the rest is for the interleaved rounds.
const searchShare = 2.0 / 3

// What ends a search early.
var (
	errBudget      = errors.New("the budget is spent")
	errInterrupted = errors.New("interrupted")
)

// Run searches. When ctx ends it returns what it knows by then. It returns an error when it knows nothing: the
// server's own reason if the model can't be served.
func Run(ctx context.Context, config Config, measurer Measurer, progress func(Progress)) (*Result, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	s := &search{config: config, measurer: measurer, progress: progress, began: time.Now()}
	s.deadline = s.began.Add(config.Budget)
	bounded, cancel := context.WithDeadline(ctx, s.deadline)
	defer cancel()
	err := s.search(bounded)
	if s.best != nil && (err == nil || errors.Is(err, errBudget)) {
		err = errors.Join(err, s.compareFinalists(bounded))
	}
	interrupted := ctx.Err() != nil
	if s.best == nil {
		return nil, s.nothing(err, interrupted)
	}
	return s.result(interrupted, errors.Is(err, errBudget))
}

// nothing is the error of a run that measured nothing.
func (s *search) nothing(err error, interrupted bool) error {
	switch {
	case interrupted:
		return errors.New("interrupted before anything was measured")
	case errors.Is(err, errBudget):
		return fmt.Errorf("the budget of %v ended before anything was measured: raise it by --budget", s.config.Budget)
	}
	return err
}

// part is a share of a duration.
func part(of time.Duration, share float64) time.Duration {
	return time.Duration(math.Round(float64(of) * share))
}
