package tune

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// noise is the relative difference below which two figures count as equal.
const noise = 0.05

// rejection returns why a trial can't be chosen whatever its speed, or "".
func (c *Config) rejection(t *Trial) string {
	if t.Failure == "" && t.Settings.Precision != fp32 && t.PSNR < c.MinPSNR {
		return fmt.Sprintf("PSNR below %g dB compared with fp32", c.MinPSNR)
	}
	return t.Failure
}

func (c *Config) meetsTarget(t *Trial) bool { return c.TargetP99 == 0 || t.P99 <= inMs(c.TargetP99) }

// better reports whether a is better than b by more than the noise.
func (c *Config) better(a, b *Trial) bool {
	if x, y := c.rejection(a) == "", c.rejection(b) == ""; !x || !y {
		return x && !y
	}
	x, y := c.meetsTarget(a), c.meetsTarget(b)
	switch {
	case x != y:
		return x
	case !x:
		return a.P99 < b.P99*(1-noise)
	}
	return a.ImagesPerSecond > b.ImagesPerSecond*(1+noise)
}

// eligible returns the trials that may be chosen.
func (c *Config) eligible(trials []*Trial) []*Trial {
	return filter(trials, func(t *Trial) bool { return c.rejection(t) == "" && c.meetsTarget(t) })
}

func filter(trials []*Trial, keep func(*Trial) bool) []*Trial {
	return slices.DeleteFunc(slices.Clone(trials), func(t *Trial) bool { return !keep(t) })
}

func bySpeed(a, b *Trial) int { return cmp.Compare(b.ImagesPerSecond, a.ImagesPerSecond) }
func byP99(a, b *Trial) int   { return cmp.Compare(a.P99, b.P99) }

// nearFastest returns the trials that are as fast as the fastest within a relative tolerance.
func nearFastest(trials []*Trial, tolerance float64) []*Trial {
	if len(trials) == 0 {
		return nil
	}
	least := slices.MinFunc(trials, bySpeed).ImagesPerSecond * (1 - tolerance)
	return filter(trials, func(t *Trial) bool { return t.ImagesPerSecond >= least })
}

// simplest returns the trial that is closest to the defaults.
func simplest(trials []*Trial) *Trial {
	return slices.MinFunc(trials, func(a, b *Trial) int {
		switch {
		case simpler(a.Settings, b.Settings):
			return -1
		case simpler(b.Settings, a.Settings):
			return 1
		}
		return bySpeed(a, b)
	})
}

// Limits of the interleaved rounds.
const (
	finalRounds  = 3
	maxFinalists = 5
)

// finalists returns the trials to measure again, the most important first:
//
//   - the best
//   - the defaults
//   - the one most likely to meet the target
//   - the steps by which the search reached the best, the last first: each changed a setting because of one measurement,
//     which may have been lucky
//   - the fastest of the others
func (s *search) finalists() []*Trial {
	finalists := append([]*Trial{s.best}, s.defaults()...)
	if s.config.TargetP99 > 0 {
		finalists = append(finalists, slices.MinFunc(s.usable(), byP99))
	}
	steps := slices.Clone(s.steps)
	slices.Reverse(steps)
	others := s.config.eligible(s.trials)
	slices.SortStableFunc(others, bySpeed)
	finalists = unique(slices.Concat(finalists, steps, others))
	return finalists[:min(len(finalists), maxFinalists)]
}

// usable returns the trials that are eligible apart from the target.
func (s *search) usable() []*Trial {
	return filter(s.trials, func(t *Trial) bool { return s.config.rejection(t) == "" })
}

// defaults returns the trial of the defaults of serve, if they can be used.
func (s *search) defaults() []*Trial {
	return filter(s.usable(), func(t *Trial) bool { return t.Settings == Defaults() })
}

func unique(trials []*Trial) []*Trial {
	var once []*Trial
	for _, t := range trials {
		if !slices.Contains(once, t) {
			once = append(once, t)
		}
	}
	return once
}

// compareFinalists measures the finalists in interleaved rounds and stores the medians in their trials. Interleaving
// makes a temporary slowdown of the machine affect all finalists. If time is short, it drops finalists rather than
// rounds, and it doesn't start a round that can't be completed. It returns errBudget or errInterrupted if it didn't
// complete all rounds.
func (s *search) compareFinalists(ctx context.Context) error {
	finalists := s.finalists()
	for len(finalists) > 2 && finalRounds*totalDuration(finalists) > time.Until(s.deadline) {
		finalists = finalists[:len(finalists)-1]
	}
	if len(finalists) < 2 {
		return nil
	}
	var end error
	for range finalRounds {
		if totalDuration(finalists) > time.Until(s.deadline) {
			end = errBudget
			break
		}
		measured, err := s.measureEach(ctx, finalists)
		if end = err; err != nil {
			break
		}
		finalists = filter(finalists, func(t *Trial) bool { return t.Failure == "" })
		for _, t := range finalists {
			t.rounds = append(t.rounds, measured[t])
		}
	}
	for _, t := range finalists {
		if len(t.rounds) > 0 {
			t.Measurement, t.Rounds = median(t.rounds), len(t.rounds)
			s.compared = append(s.compared, t)
		}
	}
	return end
}

// measureEach measures each finalist once.
func (s *search) measureEach(ctx context.Context, finalists []*Trial) (map[*Trial]Measurement, error) {
	measured := map[*Trial]Measurement{}
	for _, t := range finalists {
		m, err := s.measure(ctx, t)
		if err != nil {
			return nil, err
		}
		measured[t] = m
	}
	return measured, nil
}

// totalDuration returns how long measuring each of these trials took the last time.
func totalDuration(trials []*Trial) time.Duration {
	sum := time.Duration(0)
	for _, t := range trials {
		sum += t.duration
	}
	return sum
}

// median returns the median of each figure. What doesn't vary comes from the last measurement.
func median(measurements []Measurement) Measurement {
	middle := func(figure func(Measurement) float64) float64 {
		figures := make([]float64, 0, len(measurements))
		for _, m := range measurements {
			figures = append(figures, figure(m))
		}
		slices.Sort(figures)
		return (figures[(len(figures)-1)/2] + figures[len(figures)/2]) / 2
	}
	m := measurements[len(measurements)-1]
	m.ImagesPerSecond = middle(func(m Measurement) float64 { return m.ImagesPerSecond })
	m.P50 = middle(func(m Measurement) float64 { return m.P50 })
	m.P99 = middle(func(m Measurement) float64 { return m.P99 })
	m.PSNR = middle(func(m Measurement) float64 { return m.PSNR })
	return m
}

// spread returns half the relative range of the speed over a trial's rounds; 0 if there is only one round.
func (t *Trial) spread() float64 {
	if len(t.rounds) == 0 || t.ImagesPerSecond == 0 {
		return 0
	}
	slowest, fastest := slices.MaxFunc(t.rounds, compareSpeed), slices.MinFunc(t.rounds, compareSpeed)
	return (fastest.ImagesPerSecond - slowest.ImagesPerSecond) / 2 / t.ImagesPerSecond
}

func compareSpeed(a, b Measurement) int { return cmp.Compare(b.ImagesPerSecond, a.ImagesPerSecond) }

// A decision is the chosen trial and the reason for it.
type decision struct {
	chosen    *Trial
	metTarget bool
	near      int     // how many trials are as fast within the tolerance, the chosen one included
	tolerance float64 // relative
}

// decide chooses the simplest of the trials that are as fast as the fastest or, if none meets the target, the one that is
// closest to it. If there were interleaved rounds it considers only the finalists, since a single round may be lucky.
func (s *search) decide() (decision, error) {
	trials := s.compared
	if len(s.config.eligible(trials)) == 0 {
		trials = s.trials
	}
	eligible := s.config.eligible(trials)
	if len(eligible) == 0 {
		usable := s.usable()
		if len(usable) == 0 {
			return decision{}, fmt.Errorf("the settings that could be measured once failed when measured again: %s", s.best.Failure)
		}
		return decision{chosen: slices.MinFunc(usable, byP99)}, nil
	}
	d := decision{metTarget: true, tolerance: max(noise, slices.MinFunc(eligible, bySpeed).spread())}
	near := nearFastest(eligible, d.tolerance)
	d.chosen, d.near = simplest(near), len(near)
	return d, nil
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
