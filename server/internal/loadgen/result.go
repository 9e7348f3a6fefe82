package loadgen

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Modes of a Result.
const (
	Closed = "closed"
	Open   = "open"
)

// A Result is what a run measured. It counts the requests that began in the window (in an open loop: were to begin),
// whenever their answers came. Each is good, or has another status than 2xx, or an error.
type Result struct {
	URL      string  `json:"url"`
	Mode     string  `json:"mode"`
	Clients  int     `json:"clients"` // 0 in an open loop
	Rate     float64 `json:"rate"`    // requests a second; 0 in a closed loop
	Seconds  float64 `json:"seconds"` // the window's length
	Requests int     `json:"requests"`
	Good     int     `json:"good"`
	// Goodput is the good answers that came within the window, divided by its length. Those to requests that began in
	// the warm-up are among them, as those to the window's last requests are not.
	Goodput  float64        `json:"goodput"`
	Statuses map[int]int    `json:"statuses"` // of all answers, 2xx too
	Errors   map[string]int `json:"errors"`
	Latency  Latency        `json:"latency_ms"` // of good answers
	// BatchSizes counts good answers by the size of the batch that they were part of; empty if the server doesn't tell.
	BatchSizes map[int]int      `json:"batch_sizes"`
	Stages     map[string]Stage `json:"stages_ms"` // by the server's names for them; empty if it doesn't tell
	Behind     Behind           `json:"behind"`
	// Throughput is the good answers that came in each second of the window; the last one may be a part of a second.
	Throughput []int `json:"throughput"`
	// Interrupted: the context ended first. CutOff requests hadn't been answered then, and aren't counted.
	Interrupted bool `json:"interrupted"`
	CutOff      int  `json:"cut_off"`

	latency *hdrhistogram.Histogram
}

// Latency is a distribution of latencies in milliseconds; all 0 if there are none.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// Stage is a distribution of the times that a stage of the server took, in milliseconds.
type Stage struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
}

// result puts together what a run recorded. ended is when the last answer was there.
func (r *run) result(record *record, w watch, ended time.Duration, interrupted bool) *Result {
	window := r.window(record, ended, interrupted)
	result := &Result{
		URL: r.config.URL, Mode: Closed, Clients: r.config.Clients,
		Seconds: window.Seconds(), Requests: record.requests, Good: record.good,
		Statuses: record.statuses, Errors: record.errors, Latency: latencyOf(record.latency),
		BatchSizes: record.batches, Stages: map[string]Stage{}, Throughput: record.arrived,
		Interrupted: interrupted, CutOff: int(r.cutOff.Load()),
		latency: record.latency,
	}
	for name, h := range record.stages {
		result.Stages[name] = Stage{Mean: mean(h), P50: quantile(h, 50), P99: quantile(h, 99)}
	}
	for len(result.Throughput) < int(math.Ceil(window.Seconds())) {
		result.Throughput = append(result.Throughput, 0)
	}
	for _, n := range result.Throughput {
		result.Goodput += float64(n)
	}
	if window > 0 {
		result.Goodput = round(result.Goodput / window.Seconds())
	}
	e := evidence{
		late: w.late, what: wakeUps, median: time.Duration(record.latency.ValueAtQuantile(50)) * time.Microsecond,
		notSent: record.errors[notSent], cpu: w.cpu, beside: r.target.beside.Load(),
	}
	if r.config.open() {
		result.Mode, result.Clients, result.Rate = Open, 0, r.config.Rate
		e.late, e.what = record.late, requests
	}
	result.Behind = e.judge()
	return result
}

// window is how long the window was in fact.
func (r *run) window(record *record, ended time.Duration, interrupted bool) time.Duration {
	switch {
	case interrupted:
		ended = min(ended, r.end)
	case r.config.Requests > 0 && record.requests == r.config.Requests:
		ended = min(record.lastEnd, r.end)
	default:
		ended = r.end
	}
	return max(ended-r.begin, 0)
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	return Latency{
		Mean: mean(h), P50: quantile(h, 50), P90: quantile(h, 90), P95: quantile(h, 95), P99: quantile(h, 99),
		P999: quantile(h, 99.9), Max: inMs(longest(h)),
	}
}

func mean(h *hdrhistogram.Histogram) float64 { return round(h.Mean() / 1000) }

// quantile is in milliseconds; it takes percent.
func quantile(h *hdrhistogram.Histogram, percent float64) float64 {
	return float64(h.ValueAtQuantile(percent)) / 1000
}

func longest(h *hdrhistogram.Histogram) time.Duration {
	return time.Duration(h.Max()) * time.Microsecond
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// round leaves three digits after the point.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }
