package rollout

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Plan says how a model's new versions are compared with the one that serves, and how they take over.
type Plan struct {
	// Shadow is the share of requests, from 0 to 1, that both versions process, to compare their results.
	Shadow float64
	// Steps are the shares of requests, ascending, from above 0 to 1, that the candidate answers one step after the other.
	// After the last step it is promoted. Empty: it answers none, and waits for an operator.
	Steps []float64
	// StepTime is the least duration of a step.
	StepTime time.Duration
	Rules    []Rule // that must hold during the steps
	// EvidenceDir is a folder for the pages with the worst pairs of results; empty: none.
	EvidenceDir string
}

// ParseShare reads a percentage above 0, such as 5%, as a share from 0 to 1.
func ParseShare(text string) (float64, error) {
	number, isPercentage := strings.CutSuffix(strings.TrimSpace(text), "%")
	percentage, err := strconv.ParseFloat(number, 64)
	if err != nil || !isPercentage || !(percentage > 0 && percentage <= 100) {
		return 0, fmt.Errorf("%q is not a share: use a percentage above 0, such as 5%%", text)
	}
	return percentage / 100, nil
}

// ParseSteps reads ascending percentages separated by commas, such as 1%,10%,100%.
func ParseSteps(text string) ([]float64, error) {
	var steps []float64
	for part := range strings.SplitSeq(text, ",") {
		share, err := ParseShare(part)
		if err != nil {
			return nil, err
		}
		steps = append(steps, share)
	}
	if !slices.IsSorted(steps) || len(slices.Compact(slices.Clone(steps))) != len(steps) {
		return nil, fmt.Errorf("%q doesn't ascend: use steps such as 1%%,10%%,50%%,100%%", text)
	}
	return steps, nil
}

// A quantity is what a rule limits.
type quantity string

const (
	errorShare quantity = "errors" // the candidate's failures among the requests that it processed
	meanPSNR   quantity = "psnr"   // of all pairs' pixels together, in dB
	worstPSNR  quantity = "worst"  // of the pair that differs most, in dB
	median     quantity = "p50"    // of the candidate's latencies
	p99        quantity = "p99"
)

// quantiles are those of the latencies that can be limited.
var quantiles = map[quantity]float64{median: 0.5, p99: 0.99}

// A Rule is a condition of a candidate.
type Rule struct {
	text     string
	quantity quantity
	limit    float64 // a share, dB, a factor or milliseconds
	relative bool    // of a latency: a factor of the serving version's
}

func (r Rule) String() string { return r.text }

// ComparesPixels reports whether the rule is about pairs of results.
func (r Rule) ComparesPixels() bool { return r.quantity == meanPSNR || r.quantity == worstPSNR }

// ParseRules reads rules separated by spaces: errors<0.1%, psnr>30, worst>20, p50<1.2x, p99<250ms.
func ParseRules(text string) ([]Rule, error) {
	var rules []Rule
	for field := range strings.FieldsSeq(text) {
		rule, err := parseRule(field)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(rules, func(other Rule) bool { return other.quantity == rule.quantity && other.relative == rule.relative }) {
			return nil, fmt.Errorf("rule %q: there are two rules for %s", field, rule.quantity)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func parseRule(text string) (Rule, error) {
	rule := Rule{text: text}
	at := strings.IndexAny(text, "<>")
	if at < 0 {
		return Rule{}, unknownRule(text)
	}
	name, limit := text[:at], text[at+1:]
	rule.quantity = quantity(name)
	var err error
	switch {
	case rule.quantity == errorShare && text[at] == '<':
		rule.limit, err = ParseShare(limit)
	case rule.ComparesPixels() && text[at] == '>':
		rule.limit, err = strconv.ParseFloat(strings.TrimSuffix(limit, "dB"), 64)
	case quantiles[rule.quantity] > 0 && text[at] == '<':
		rule.limit, rule.relative, err = parseLatency(limit)
	default:
		err = unknownRule(text)
	}
	if err == nil && !(rule.limit > 0) {
		err = unknownRule(text)
	}
	if err != nil {
		return Rule{}, unknownRule(text)
	}
	return rule, nil
}

// parseLatency reads a factor such as 1.2x, or a duration, which it returns in milliseconds.
func parseLatency(text string) (limit float64, relative bool, err error) {
	if factor, isFactor := strings.CutSuffix(text, "x"); isFactor {
		limit, err = strconv.ParseFloat(factor, 64)
		return limit, true, err
	}
	d, err := time.ParseDuration(text)
	return milliseconds(d), false, err
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func unknownRule(text string) error {
	return fmt.Errorf("rule %q: use errors<0.1%%, psnr>30, worst>20, p50<1.2x or p99<250ms, separated by spaces", text)
}
