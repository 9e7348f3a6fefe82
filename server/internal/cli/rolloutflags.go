package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/rollout"
)

// rolloutFlags say how new versions take over. Without --shadow and --canary they do at once.
type rolloutFlags struct {
	Shadow      []string      `sep:"none" help:"Share of a model's requests that its new version processes too, after the response, to compare the results. The new version waits for models promote. Without NAME=, for all models." placeholder:"[NAME=]5%" group:"New versions"`
	Canary      []string      `sep:"none" help:"Shares of a model's clients that its new version answers, step by step while --canary-rule holds, before it is promoted." placeholder:"[NAME=]1%,10%,100%" group:"New versions"`
	CanaryStep  time.Duration `default:"5m" help:"Least duration of a step. A step lasts until there is enough evidence for each rule." group:"New versions"`
	CanaryRule  string        `default:"errors<1%" help:"Rules, separated by spaces, of which one that is broken ends the new version: errors<0.1%, psnr>30, worst>20, p50<1.2x, p99<1.2x or p99<250ms." group:"New versions"`
	CanaryKey   string        `help:"Request header whose value decides which version answers a client, instead of the client's address." placeholder:"HEADER" group:"New versions"`
	EvidenceDir string        `type:"path" help:"Folder for pages with the pairs of results that differ most. They have images that clients sent." placeholder:"FOLDER" group:"New versions"`
}

// comparedShare is the share of requests that a canary with a rule about pixels compares, if --shadow says nothing.
const comparedShare = 0.05

// plans returns the plans of the models that have one, by their names; "" is for all others.
func (f *rolloutFlags) plans() (map[string]rollout.Plan, error) {
	rules, err := rollout.ParseRules(f.CanaryRule)
	switch {
	case err != nil:
		return nil, fmt.Errorf("--canary-rule: %w", err)
	case f.CanaryStep < 0:
		return nil, fmt.Errorf("--canary-step is %v: use 0 or more", f.CanaryStep)
	case f.EvidenceDir != "" && len(f.Shadow)+len(f.Canary) == 0:
		return nil, errors.New("--evidence-dir: nothing is compared without --shadow or --canary")
	case f.CanaryKey != "" && len(f.Canary) == 0:
		return nil, errors.New("--canary-key: no client is moved without --canary")
	}
	plans := map[string]rollout.Plan{}
	for _, text := range f.Canary {
		name, value := splitName(text)
		plan := rollout.Plan{StepTime: f.CanaryStep, Rules: rules, EvidenceDir: f.EvidenceDir}
		if plan.Steps, err = rollout.ParseSteps(value); err != nil {
			return nil, fmt.Errorf("--canary: %w", err)
		}
		if slices.ContainsFunc(rules, rollout.Rule.ComparesPixels) || f.EvidenceDir != "" {
			plan.Shadow = comparedShare
		}
		plans[name] = plan
	}
	for _, text := range f.Shadow {
		name, value := splitName(text)
		plan, ok := plans[name]
		if !ok {
			plan = plans[""] // a canary of all models
			plan.EvidenceDir = f.EvidenceDir
		}
		if plan.Shadow, err = rollout.ParseShare(value); err != nil {
			return nil, fmt.Errorf("--shadow: %w", err)
		}
		plans[name] = plan
	}
	return plans, nil
}

// splitName splits NAME=VALUE. Without a name, the value is for all models.
func splitName(text string) (name, value string) {
	if name, value, named := strings.Cut(text, "="); named {
		return name, value
	}
	return "", text
}
