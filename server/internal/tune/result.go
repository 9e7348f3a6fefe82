package tune

import (
	"slices"
	"time"
)

// A Result is the outcome of a search.
type Result struct {
	Clients   int     `json:"clients"`
	TargetP99 float64 `json:"target_p99_ms"` // 0: no limit
	MinPSNR   float64 `json:"min_psnr_db"`
	Seconds   float64 `json:"seconds"` // how long the search took
	// Trials are the measured settings: first those of the interleaved rounds, then other eligible ones, those that
	// aren't eligible, and those that failed; each group by descending speed.
	Trials []*Trial `json:"trials"`
	// Chosen are the settings with the most images per second, or the simplest within the noise of them. If none meets
	// the target, they are the settings with the lowest p99.
	Chosen *Trial `json:"taken"`
	// Command is the command line of a server with the chosen settings, the queue for this many clients, and
	// Config.ExtraArguments.
	Command   []string `json:"command"`
	MetTarget bool     `json:"met_target"`
	// Near is how many settings are within Tolerance (relative) of the fastest, the fastest included.
	Near      int     `json:"near"`
	Tolerance float64 `json:"tolerance"`
	// SpeedUp is the images per second of Chosen divided by those of the defaults with the same queue; 0 if the defaults
	// can't be used.
	SpeedUp float64 `json:"speed_up"`
	// BudgetSpent: the budget ran out before everything was tried. Interrupted: the context ended first.
	BudgetSpent bool `json:"budget_spent"`
	Interrupted bool `json:"interrupted"`

	config Config
}

func (s *search) result(interrupted, budgetSpent bool) (*Result, error) {
	d, err := s.decide()
	if err != nil {
		return nil, err
	}
	c := &s.config
	r := &Result{
		Clients: c.Clients, TargetP99: inMs(c.TargetP99), MinPSNR: c.MinPSNR, Seconds: time.Since(s.start).Seconds(),
		Trials: slices.SortedStableFunc(slices.Values(s.trials), func(a, b *Trial) int {
			if x, y := c.group(a), c.group(b); x != y {
				return x - y
			}
			return bySpeed(a, b)
		}),
		Chosen: d.chosen, Command: c.command(d.chosen.Settings), MetTarget: d.metTarget, Near: d.near, Tolerance: d.tolerance,
		BudgetSpent: budgetSpent, Interrupted: interrupted, config: s.config,
	}
	if defaults := s.defaults(); len(defaults) > 0 && defaults[0].ImagesPerSecond > 0 {
		r.SpeedUp = d.chosen.ImagesPerSecond / defaults[0].ImagesPerSecond
	}
	return r, nil
}

// group returns a trial's group in Result.Trials.
func (c *Config) group(t *Trial) int {
	switch {
	case t.Failure != "":
		return 3
	case c.rejection(t) != "" || !c.meetsTarget(t):
		return 2
	case t.Rounds == 0:
		return 1
	}
	return 0
}

// command returns the command line of a server with these settings.
func (c *Config) command(s Settings) []string {
	command := []string{"torchherd", "serve"}
	if c.Model != "" {
		command = append(command, c.Model)
	}
	command = append(command, s.Arguments()...)
	if QueueSize(c.Clients) != defaultQueueSize() {
		command = append(command, queueFlag(c.Clients)...)
	}
	return append(command, c.ExtraArguments...)
}
