package tune

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// A search is the state of one Run.
type search struct {
	config   Config
	measurer Measurer
	progress func(Progress)

	start, deadline time.Time
	round           int      // the number of the current measurement
	trials          []*Trial // in the order of their measurements
	best            *Trial   // so far; nil until some settings could be used
	steps           []*Trial // that were the best at some time
	compared        []*Trial // the finalists with complete interleaved rounds
}

// search measures the defaults and then what may be better.
func (s *search) search(ctx context.Context) error {
	if err := s.measureDefaults(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, s.start.Add(part(s.config.Budget, searchShare)))
	defer cancel()
	for {
		before := s.best
		for _, vary := range []func(context.Context) error{s.varyBatchSize, s.varyInstances, s.varyPrecision, s.varyWait} {
			if err := vary(ctx); err != nil {
				return err
			}
		}
		if s.best == before { // which ends the loop, since the best only improves
			return nil
		}
	}
}

// measureDefaults measures the defaults and, if the model can't be served with them, a batch size of 1.
func (s *search) measureDefaults(ctx context.Context) error {
	defaults, err := s.try(ctx, Defaults())
	if err != nil || defaults.Failure == "" {
		return err
	}
	candidate := Defaults()
	candidate.MaxBatchSize = 1
	single, err := s.try(ctx, candidate)
	if err == nil && single.Failure != "" {
		return errors.New(defaults.Failure)
	}
	return err
}

// batchSizes are the batch sizes to try.
var batchSizes = []int{1, 2, 4, 8, 16}

// varyBatchSize raises the batch size as long as that helps, and lowers it if the first step up doesn't help. A batch
// can't have more images than there are clients.
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
			candidate := s.best.Settings
			candidate.MaxBatchSize = size
			if improved, err := s.improve(ctx, candidate); err != nil {
				return err
			} else if !improved {
				break
			}
		}
		if s.best != from {
			return nil
		}
	}
	return nil
}

// varyInstances divides the cores among different numbers of instances. With a GPU the threads don't matter.
func (s *search) varyInstances(ctx context.Context) error {
	from := s.best
	for _, instances := range s.instanceCounts() {
		candidate := from.Settings
		candidate.Instances, candidate.Threads = instances, 0
		if !from.CUDA {
			candidate.Threads = s.config.Cores / instances
		}
		if instances == from.Settings.Instances && (from.CUDA || candidate.Threads == from.Threads) {
			continue // the server has chosen the same
		}
		if _, err := s.improve(ctx, candidate); err != nil {
			return err
		}
	}
	return nil
}

// maxInstanceCounts is how many numbers of instances are tried.
const maxInstanceCounts = 5

// instanceCounts returns the numbers of instances to try: the divisors of the number of cores, up to the number of
// clients. If there are many, it returns evenly spaced ones.
func (s *search) instanceCounts() []int {
	var all []int
	for n := 1; n <= min(s.config.Cores, s.config.Clients); n++ {
		if s.config.Cores%n == 0 {
			all = append(all, n)
		}
	}
	if len(all) <= maxInstanceCounts {
		return all
	}
	some := make([]int, maxInstanceCounts)
	for i := range some {
		some[i] = all[i*(len(all)-1)/(maxInstanceCounts-1)]
	}
	return some
}

// varyPrecision tries the precisions of the device, and CUDA graphs.
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
		candidate := from.Settings
		candidate.Precision = precision
		if _, err := s.improve(ctx, candidate); err != nil {
			return err
		}
	}
	if !from.CUDA {
		return nil
	}
	candidate := s.best.Settings
	candidate.CUDAGraphs = !candidate.CUDAGraphs
	_, err := s.improve(ctx, candidate)
	return err
}

// waits are the maximum waits to try beside the default.
var waits = []time.Duration{0, 2 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond}

func (s *search) varyWait(ctx context.Context) error {
	from := s.best
	if from.Settings.MaxBatchSize == 1 {
		return nil // a batch of one never waits
	}
	for _, wait := range waits {
		candidate := from.Settings
		candidate.MaxWait = wait
		if _, err := s.improve(ctx, candidate); err != nil {
			return err
		}
	}
	return nil
}

// improve tries a candidate and reports whether it is the best so far.
func (s *search) improve(ctx context.Context, candidate Settings) (bool, error) {
	trial, err := s.try(ctx, candidate)
	return err == nil && trial == s.best, err
}

// try measures a candidate unless it was measured before. It returns errBudget without measuring if the context would
// probably end first, judging by the longest measurement so far.
func (s *search) try(ctx context.Context, candidate Settings) (*Trial, error) {
	longest := time.Duration(0)
	for _, t := range s.trials {
		if t.Settings == candidate {
			return t, nil
		}
		longest = max(longest, t.duration)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < longest {
		return nil, errBudget
	}
	t := &Trial{Settings: candidate}
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

// measure measures a trial once, and stores its failure if its settings can't be used. It returns errBudget or
// errInterrupted if the context ended first.
func (s *search) measure(ctx context.Context, t *Trial) (Measurement, error) {
	if end := endOf(ctx); end != nil {
		return Measurement{}, end
	}
	s.round++
	start := time.Now()
	report := func(stage Stage, l loadgen.Progress, m Measurement, err error) {
		s.progress(Progress{
			Elapsed: time.Since(s.start), Round: s.round, Settings: t.Settings,
			Stage: stage, Load: l, Measured: m, Err: err,
		})
	}
	report(Starting, loadgen.Progress{}, Measurement{}, nil)
	m, err := s.measurer.Measure(ctx, t.Settings, func(l loadgen.Progress) { report(Sending, l, Measurement{}, nil) })
	t.duration = time.Since(start)
	end := endOf(ctx)
	if end != nil { // then the server was stopped in the middle, and neither m nor err means anything
		m, err = Measurement{}, end
	}
	report(Done, loadgen.Progress{}, m, err)
	if err != nil && end == nil {
		t.Failure = err.Error()
	}
	return m, end
}

// endOf returns errBudget or errInterrupted if the context has ended, else nil.
func endOf(ctx context.Context) error {
	switch {
	case ctx.Err() == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errBudget
	}
	return errInterrupted
}
