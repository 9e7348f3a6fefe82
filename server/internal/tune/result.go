package tune

import (
	"slices"
	"time"
)

// A Result is what was found.
type Result struct {
	Clients   int     `json:"clients"`
	TargetP99 float64 `json:"target_p99_ms"` // 0: none
	MinPSNR   float64 `json:"min_psnr_db"`
	Seconds   float64 `json:"seconds"` // that it took
	// Trials are the settings that were measured: those of the interleaved rounds, those that might have been taken too,
	// those that might not, those that failed; of each kind the fastest first.
	Trials []*Trial `json:"trials"`
	// Taken are the settings that answer the most pictures a second, or the simplest that do within the noise; those
	// with the lowest p99 if none meets the target.
	Taken *Trial `json:"taken"`
	// Command is the command line that serves by them: Settings, the queue for this many clients, and what was passed.
	Command   []string `json:"command"`
	MetTarget bool     `json:"met_target"`
	// Near is how many settings are as fast as the fastest, itself included, within Tolerance (relative).
	Near      int     `json:"near"`
	Tolerance float64 `json:"tolerance"`
	// SpeedUp is the pictures a second of Taken, divided by those of serve's defaults with the same queue; 0 if the
	// defaults can't be used.
	SpeedUp float64 `json:"speed_up"`
	// BudgetSpent: the budget ended before everything was tried. Interrupted: the context did.
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
		Clients: c.Clients, TargetP99: inMs(c.TargetP99), MinPSNR: c.MinPSNR, Seconds: time.Since(s.began).Seconds(),
		Trials: slices.SortedStableFunc(slices.Values(s.trials), func(a, b *Trial) int {
			if x, y := c.rank(a), c.rank(b); x != y {
				return x - y
			}
			return bySpeed(a, b)
		}),
		Taken: d.taken, Command: c.command(d.taken.Settings), MetTarget: d.met, Near: d.near, Tolerance: d.tolerance,
		BudgetSpent: budgetSpent, Interrupted: interrupted, config: s.config,
	}
	if defaults := s.defaults(); len(defaults) > 0 && defaults[0].ImagesPerSecond > 0 {
		r.SpeedUp = d.taken.ImagesPerSecond / defaults[0].ImagesPerSecond
	}
	return r, nil
}

// rank is a trial's place in the table.
func (c *Config) rank(t *Trial) int {
	switch {
	case t.Failure != "":
		return 3
	case c.unusable(t) != "" || !c.inTime(t):
		return 2
	case t.Rounds == 0:
		return 1
	}
	return 0
}

// command is the command line that serves by these settings.
func (c *Config) command(s Settings) []string {
	command := []string{"torchherd", "serve"}
	if c.Model != "" {
		command = append(command, c.Model)
	}
	command = append(command, s.Arguments()...)
	if QueueSize(c.Clients) != defaultQueue {
		command = append(command, queueFlag(c.Clients)...)
	}
	return append(command, c.Passed...)
}
