package tune

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// A search is a run of Run.
type search struct {
	config   Config
	measurer Measurer
	progress func(Progress)

	began, deadline time.Time
	round           int      // that was begun last
	trials          []*Trial // in the order in which they were begun
	best            *Trial   // so far; nil until some settings can be used
	steps           []*Trial // that were the best once
	compared        []*Trial // the finalists of complete interleaved rounds
}

// search measures the defaults, then what may be better.
func (s *search) search(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	until := s.began.Add(part(s.config.Budget, searchShare))
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		before := s.best
		for _, vary := range []func(context.Context) error{s.varyBatchSize, s.varyInstances, s.varyPrecision, s.varyWait} {
			if err := vary(ctx); err != nil {
				return err
			}
		}
		if s.best == before { // it gets better or stays, so this comes
			return nil
		}
	}
}

// begin measures the defaults or, with a model that they don't suit, single pictures.
func (s *search) begin(ctx context.Context) error {
	defaults, err := s.try(ctx, Defaults())
	if err != nil || defaults.Failure == "" {
		return err
	}
	single := Defaults()
	single.MaxBatchSize = 1
	alone, err := s.try(ctx, single)
	if err == nil && alone.Failure != "" {
		return errors.New(defaults.Failure)
	}
	return err
}

// batchSizes are those that are tried.
var batchSizes = []int{1, 2, 4, 8, 16}

// varyBatchSize goes up as long as that helps, and down if the first step up doesn't. There can't be more pictures in
// a batch than clients.
func (s *search) varyBatchSize(ctx context.Context) error {
	from := s.best
	up, down := []int{}, []int{}
	for _, size := range batchSizes {
		switch {
		case size < from.Settings.MaxBatchSize:
			down = append(down, size)
		case size > from.Settings.MaxBatchSize && size <= s.config.Clients:
			up = append(up, size)
		}
	}
	slices.Reverse(down)
	for _, sizes := range [][]int{up, down} {
		for _, size := range sizes {
			settings := s.best.Settings
			settings.MaxBatchSize = size
			if helped, err := s.improve(ctx, settings); err != nil {
				return err
			} else if !helped {
				break
			}
		}
		if s.best != from {
			return nil
		}
	}
	return nil
}

// varyInstances shares the cores out: all of them to one instance, or some to each of several. On a GPU the threads
// don't matter.
func (s *search) varyInstances(ctx context.Context) error {
	from := s.best
	for _, instances := range s.instances() {
		settings := from.Settings
		settings.Instances, settings.Threads = instances, 0
		if !from.CUDA {
			settings.Threads = s.config.Cores / instances
		}
		if instances == from.Settings.Instances && (from.CUDA || settings.Threads == from.Threads) {
			continue // the server has chosen that by itself
		}
		if _, err := s.improve(ctx, settings); err != nil {
			return err
		}
	}
	return nil
}

// maxShares is how many ways of sharing the cores are tried.
const maxShares = 5

// instances are the numbers of instances that are tried: those that the cores can be divided by, as far as there are
// clients for them. Of many, some are left out, evenly.
func (s *search) instances() []int {
	var all []int
	for n := 1; n <= min(s.config.Cores, s.config.Clients); n++ {
		if s.config.Cores%n == 0 {
			all = append(all, n)
		}
	}
	if len(all) <= maxShares {
		return all
	}
	some := make([]int, maxShares)
	for i := range some {
		some[i] = all[i*(len(all)-1)/(maxShares-1)]
	}
	return some
}

// varyPrecision tries what the device has.
func (s *search) varyPrecision(ctx context.Context) error {
	from := s.best
	precisions := []string{fp32, "bf16"}
	if from.CUDA {
		precisions = []string{fp32, "tf32", "bf16", "fp16"}
	}
	if s.config.KeepPrecision {
		precisions = []string{from.Settings.Precision}
	}
	for _, precision := range precisions {
		settings := from.Settings
		settings.Precision = precision
		if _, err := s.improve(ctx, settings); err != nil {
			return err
		}
	}
	if !from.CUDA {
		return nil
	}
	settings := s.best.Settings
	settings.CUDAGraphs = !settings.CUDAGraphs
	_, err := s.improve(ctx, settings)
	return err
}

// waits are those that are tried, beside serve's default.
var waits = []time.Duration{0, 2 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond}

func (s *search) varyWait(ctx context.Context) error {
	from := s.best
	if from.Settings.MaxBatchSize == 1 {
		return nil // there is nothing to wait for
	}
	for _, wait := range waits {
		settings := from.Settings
		settings.MaxWait = wait
		if _, err := s.improve(ctx, settings); err != nil {
			return err
		}
	}
	return nil
}

// improve tries settings, and says whether they are the best so far.
func (s *search) improve(ctx context.Context, settings Settings) (bool, error) {
	trial, err := s.try(ctx, settings)
	return err == nil && trial == s.best, err
}

// try measures settings, unless they were measured before. A round that would be too long for what is left of the
// context's time, if it took as long as the longest one so far, isn't begun.
func (s *search) try(ctx context.Context, settings Settings) (*Trial, error) {
	longest := time.Duration(0)
	for _, t := range s.trials {
		if t.Settings == settings {
			return t, nil
		}
		longest = max(longest, t.took)
	}
	if until, ok := ctx.Deadline(); ok && time.Until(until) < longest {
		return nil, errBudget
	}
	t := &Trial{Settings: settings}
	var err error
	if t.Measurement, err = s.measure(ctx, t); err != nil {
		return nil, err
	}
	s.trials = append(s.trials, t)
	if t.Failure == "" && (s.best == nil || s.config.better(t, s.best)) {
		s.best, s.steps = t, append(s.steps, t)
	}
	return t, nil
}

// measure measures once, and writes it down if the settings can't be used. Its error is errBudget or errInterrupted:
// the context ended first.
func (s *search) measure(ctx context.Context, t *Trial) (Measurement, error) {
	if end := endOf(ctx); end != nil {
		return Measurement{}, end
	}
	s.round++
	began := time.Now()
	tell := func(stage Stage, l loadgen.Progress, m Measurement, err error) {
		s.progress(Progress{
			Elapsed: time.Since(s.began), Round: s.round, Settings: t.Settings,
			Stage: stage, Load: l, Measured: m, Err: err,
		})
	}
	tell(Starting, loadgen.Progress{}, Measurement{}, nil)
	m, err := s.measurer.Measure(ctx, t.Settings, func(l loadgen.Progress) { tell(Sending, l, Measurement{}, nil) })
	t.took = time.Since(began)
	end := endOf(ctx)
	if end != nil { // then the server's failure, or half a measurement, is only what came of that
		m, err = Measurement{}, end
	}
	tell(Done, loadgen.Progress{}, m, err)
	if err != nil && end == nil {
		t.Failure = err.Error()
	}
	return m, end
}

// endOf is errBudget or errInterrupted if the context has ended, else nil.
func endOf(ctx context.Context) error {
	switch {
	case ctx.Err() == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errBudget
	}
	return errInterrupted
}
