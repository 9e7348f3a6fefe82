package tune

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// noise is what two figures must differ by at least, relatively, to be taken for different.
const noise = 0.05

// unusable says why a trial can't be taken whatever its speed; "": it can.
func (c *Config) unusable(t *Trial) string {
	if t.Failure == "" && t.Settings.Precision != fp32 && t.PSNR < c.MinPSNR {
		return fmt.Sprintf("answers keep less than %g dB of fp32's", c.MinPSNR)
	}
	return t.Failure
}

// inTime says whether a trial keeps to the target.
func (c *Config) inTime(t *Trial) bool { return c.TargetP99 == 0 || t.P99 <= inMs(c.TargetP99) }

// better says whether a trial is better than another one, by more than the noise.
func (c *Config) better(t, than *Trial) bool {
	if a, b := c.unusable(t) == "", c.unusable(than) == ""; !a || !b {
		return a && !b
	}
	a, b := c.inTime(t), c.inTime(than)
	switch {
	case a != b:
		return a
	case !a:
		return t.P99 < than.P99*(1-noise)
	}
	return t.ImagesPerSecond > than.ImagesPerSecond*(1+noise)
}

// takeable are those of the trials that may be taken.
func (c *Config) takeable(trials []*Trial) []*Trial {
	return only(trials, func(t *Trial) bool { return c.unusable(t) == "" && c.inTime(t) })
}

func only(trials []*Trial, which func(*Trial) bool) []*Trial {
	return slices.DeleteFunc(slices.Clone(trials), func(t *Trial) bool { return !which(t) })
}

func bySpeed(a, b *Trial) int { return cmp.Compare(b.ImagesPerSecond, a.ImagesPerSecond) }
func byP99(a, b *Trial) int   { return cmp.Compare(a.P99, b.P99) }

// near are the trials that are as fast as the fastest, within a relative tolerance.
func near(trials []*Trial, tolerance float64) []*Trial {
	if len(trials) == 0 {
		return nil
	}
	least := slices.MinFunc(trials, bySpeed).ImagesPerSecond * (1 - tolerance)
	return only(trials, func(t *Trial) bool { return t.ImagesPerSecond >= least })
}

// simplest is the trial that is closest to the defaults.
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

// Of the interleaved rounds.
const (
	finalRounds  = 3
	maxFinalists = 5
)

// finalists are the trials that are measured again, the ones that are needed most first: the best; the defaults; the
// surest to keep to the target; the steps by which the search came to the best, the last first, because each claims
// that its flag helped and may have been lucky; and the fastest of the others.
func (s *search) finalists() []*Trial {
	finalists := append([]*Trial{s.best}, s.defaults()...)
	if s.config.TargetP99 > 0 {
		finalists = append(finalists, slices.MinFunc(s.usable(), byP99))
	}
	steps := slices.Clone(s.steps)
	slices.Reverse(steps)
	others := s.config.takeable(s.trials)
	slices.SortStableFunc(others, bySpeed)
	finalists = unique(slices.Concat(finalists, steps, others))
	return finalists[:min(len(finalists), maxFinalists)]
}

// usable are the trials that may be taken if they keep to the target.
func (s *search) usable() []*Trial {
	return only(s.trials, func(t *Trial) bool { return s.config.unusable(t) == "" })
}

// defaults is the trial of serve's defaults, if they can be used.
func (s *search) defaults() []*Trial {
	return only(s.usable(), func(t *Trial) bool { return t.Settings == Defaults() })
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

// compareFinalists measures the finalists in interleaved rounds, so that what slows the machine for a while slows all
// of them, and puts the medians in their trials. Where time is short there are fewer finalists rather than fewer
// rounds; a round is begun only if there is time for all of it. The error is errBudget or errInterrupted if there
// weren't all rounds.
func (s *search) compareFinalists(ctx context.Context) error {
	finalists := s.finalists()
	for len(finalists) > 2 && finalRounds*took(finalists) > time.Until(s.deadline) {
		finalists = finalists[:len(finalists)-1]
	}
	if len(finalists) < 2 {
		return nil
	}
	var end error
	for range finalRounds {
		if took(finalists) > time.Until(s.deadline) {
			end = errBudget
			break
		}
		measured, err := s.measureEach(ctx, finalists)
		if end = err; err != nil {
			break
		}
		finalists = only(finalists, func(t *Trial) bool { return t.Failure == "" })
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

// measureEach is one round over all finalists.
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

// took is how long one round over these trials took the last time.
func took(trials []*Trial) time.Duration {
	sum := time.Duration(0)
	for _, t := range trials {
		sum += t.took
	}
	return sum
}

// median is the medians of measurements' figures, each for itself. What doesn't change is the last one's.
func median(of []Measurement) Measurement {
	middle := func(figure func(Measurement) float64) float64 {
		figures := make([]float64, 0, len(of))
		for _, m := range of {
			figures = append(figures, figure(m))
		}
		slices.Sort(figures)
		return (figures[(len(figures)-1)/2] + figures[len(figures)/2]) / 2
	}
	m := of[len(of)-1]
	m.ImagesPerSecond = middle(func(m Measurement) float64 { return m.ImagesPerSecond })
	m.P50 = middle(func(m Measurement) float64 { return m.P50 })
	m.P99 = middle(func(m Measurement) float64 { return m.P99 })
	m.PSNR = middle(func(m Measurement) float64 { return m.PSNR })
	return m
}

// spread is how far a trial's rounds lie from their middle, relatively; 0 if there is only one.
func (t *Trial) spread() float64 {
	if len(t.rounds) == 0 || t.ImagesPerSecond == 0 {
		return 0
	}
	slowest, fastest := slices.MaxFunc(t.rounds, compareSpeed), slices.MinFunc(t.rounds, compareSpeed)
	return (fastest.ImagesPerSecond - slowest.ImagesPerSecond) / 2 / t.ImagesPerSecond
}

func compareSpeed(a, b Measurement) int { return cmp.Compare(b.ImagesPerSecond, a.ImagesPerSecond) }

// A decision is which trial is taken, and why.
type decision struct {
	taken     *Trial
	met       bool    // the target
	near      int     // how many are as fast, the taken one included
	tolerance float64 // within which they are
}

// decide takes the simplest of the trials that are as fast as the fastest one, or the one that is nearest to the target
// if none meets it. If there were interleaved rounds, only finalists are looked at: a single round can be lucky.
func (s *search) decide() (decision, error) {
	from := s.compared
	if len(s.config.takeable(from)) == 0 {
		from = s.trials
	}
	takeable := s.config.takeable(from)
	if len(takeable) == 0 {
		usable := s.usable()
		if len(usable) == 0 {
			return decision{}, fmt.Errorf("what could be measured once failed when it was measured again: %s", s.best.Failure)
		}
		return decision{taken: slices.MinFunc(usable, byP99)}, nil
	}
	d := decision{met: true, tolerance: max(noise, slices.MinFunc(takeable, bySpeed).spread())}
	as := near(takeable, d.tolerance)
	d.taken, d.near = simplest(as), len(as)
	return d, nil
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
