// Package tune searches for the settings with which a server processes the most images per second on this machine.
//
// # The search
//
// Measuring every combination of settings would take hours with a large model. The search therefore changes one setting
// at a time, starting from the defaults of serve: it raises (or else lowers) the batch size as long as that helps, then
// varies how instances share the cores, the precision and the maximum wait. It repeats this from the best settings so
// far until a pass finds nothing better. The maximum wait comes last because it matters least, and the budget may end.
//
// The best settings and the defaults are then measured again in interleaved rounds, and the medians count. Settings
// within the noise of the fastest count as equally fast; of these the search chooses the ones closest to the defaults.
package tune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// A Config describes a search. Zero values aren't replaced by defaults.
type Config struct {
	Model          string   // as on the command line of serve; "": the bundled model
	ExtraArguments []string // further arguments of serve, the same in every measurement
	Clients        int      // that send images, each the next one after its response: 1 to loadgen.MaxClients
	Cores          int      // that the server may use
	// TargetP99 is the upper limit for the 99th percentile of the latency; 0: no limit.
	TargetP99 time.Duration
	// MinPSNR is the minimum PSNR, in dB, of responses in another precision compared with those in fp32.
	MinPSNR float64
	// KeepPrecision excludes the precision from the search: the model has a fixed one.
	KeepPrecision bool
	// Duration is the approximate minimum of a round, once its server is ready: up to loadgen.MaxDuration.
	Duration time.Duration
	// Budget is how long the whole search may take.
	Budget time.Duration
}

// Validate returns an error for the first field that is out of range.
func (c *Config) Validate() error {
	switch {
	case c.Clients < 1 || c.Clients > loadgen.MaxClients:
		return fmt.Errorf("clients %d: must be 1 to %d", c.Clients, loadgen.MaxClients)
	case c.TargetP99 < 0:
		return fmt.Errorf("target p99 %v: must be 0s (no limit) or more", c.TargetP99)
	case !(c.MinPSNR >= 0 && c.MinPSNR <= MaxPSNR): // NaN too
		return fmt.Errorf("min psnr %v: must be 0 to %d dB", c.MinPSNR, MaxPSNR)
	case c.Duration <= 0 || c.Duration > loadgen.MaxDuration:
		return fmt.Errorf("duration %v: must be above 0s and at most %v", c.Duration, loadgen.MaxDuration)
	case c.Budget <= 0:
		return fmt.Errorf("budget %v: must be above 0s", c.Budget)
	}
	return nil
}

// A Measurement is the outcome of one round in which every request succeeded.
type Measurement struct {
	ImagesPerSecond float64 `json:"pictures_per_second"`
	P50             float64 `json:"p50_ms"`
	P99             float64 `json:"p99_ms"`
	// PSNR compares the responses with those of fp32: the lowest value of all images, in dB, at most MaxPSNR. It is 0 if
	// the precision is fp32.
	PSNR    float64 `json:"psnr_db"`
	Threads int     `json:"threads"` // that one forward used; the server chooses if Settings has 0
	CUDA    bool    `json:"cuda"`    // the model ran on a GPU
	// FellBehind is why the load generator couldn't keep up, in which case the server may be faster; "": it kept up.
	FellBehind string `json:"fell_behind"`
}

// A Measurer measures settings. Measure calls progress when the server is ready, and then about once a second. It
// returns an error if the settings can't be used, and any error after the context has ended.
type Measurer interface {
	Measure(ctx context.Context, candidate Settings, progress func(loadgen.Progress)) (Measurement, error)
}

// A Trial is a candidate and its measurements.
type Trial struct {
	Settings    Settings `json:"settings"`
	Measurement          // the search's or, if there were interleaved rounds, their medians
	Rounds      int      `json:"rounds"`  // interleaved rounds
	Failure     string   `json:"failure"` // why the settings can't be used; "": they can

	rounds   []Measurement // interleaved
	duration time.Duration // of the last measurement, the start of the server included
}

// A Progress describes the current state of a search.
type Progress struct {
	Elapsed  time.Duration
	Round    int // counts from 1, over all settings
	Settings Settings
	Stage    Stage
	Load     loadgen.Progress // for Sending
	Measured Measurement      // for Done
	Err      error            // for Done: why there is no measurement
}

// A Stage is a part of a round.
type Stage int

// The stages in their order. Sending is reported repeatedly.
const (
	Starting Stage = iota
	Sending
	Done
)

// searchShare is the part of the budget for the search; the rest is for the interleaved rounds.
const searchShare = 2.0 / 3

// Reasons why a search ends early.
var (
	errBudget      = errors.New("the budget ran out")
	errInterrupted = errors.New("interrupted")
)

// Run searches. When ctx ends it returns the result so far. It returns an error if nothing could be measured: if the
// model can't be served, the reason that the server gave. progress may be nil.
func Run(ctx context.Context, config Config, measurer Measurer, progress func(Progress)) (*Result, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	s := &search{config: config, measurer: measurer, progress: progress, start: time.Now()}
	s.deadline = s.start.Add(config.Budget)
	bounded, cancel := context.WithDeadline(ctx, s.deadline)
	defer cancel()
	err := s.search(bounded)
	if s.best != nil && (err == nil || errors.Is(err, errBudget)) {
		err = errors.Join(err, s.compareFinalists(bounded))
	}
	interrupted := ctx.Err() != nil
	if s.best == nil {
		return nil, s.noResult(err, interrupted)
	}
	return s.result(interrupted, errors.Is(err, errBudget))
}

// noResult returns the error of a search that measured nothing.
func (s *search) noResult(err error, interrupted bool) error {
	switch {
	case interrupted:
		return errors.New("interrupted before anything was measured")
	case errors.Is(err, errBudget):
		return fmt.Errorf("the budget of %v ran out before anything was measured; raise --budget", s.config.Budget)
	}
	return err
}

// part returns a share of a duration.
func part(d time.Duration, share float64) time.Duration {
	return time.Duration(math.Round(float64(d) * share))
}
