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

// A Result holds the measurements of a run. It counts the requests whose start (in an open loop: intended start) is in the
// window, whenever their responses arrived. Each is good, or has another status than 2xx, or an error.
type Result struct {
	URL      string  `json:"url"`
	Mode     string  `json:"mode"`
	Clients  int     `json:"clients"` // 0 in an open loop
	Rate     float64 `json:"rate"`    // requests per second; 0 in a closed loop
	Seconds  float64 `json:"seconds"` // length of the window
	Requests int     `json:"requests"`
	Good     int     `json:"good"`
	// Goodput is the number of good responses that arrived in the window, divided by its length. It includes responses to
	// requests of the warm-up, and not those to the last requests of the window.
	Goodput  float64        `json:"goodput"`
	Statuses map[int]int    `json:"statuses"` // of all responses, 2xx included
	Errors   map[string]int `json:"errors"`
	Latency  Latency        `json:"latency_ms"` // of good responses
	// BatchSizes counts good responses by the size of their batch; empty if the server doesn't report it.
	BatchSizes map[int]int      `json:"batch_sizes"`
	Stages     map[string]Stage `json:"stages_ms"` // by the server's names; empty if it doesn't report them
	Saturation Saturation       `json:"behind"`
	// Throughput is the number of good responses in each second of the window; the last second may be incomplete.
	Throughput []int `json:"throughput"`
	// Interrupted: the context ended first. CutOff requests were in flight then, and aren't counted.
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

// Stage is a distribution of the durations of a stage of the server, in milliseconds.
type Stage struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
}

// result returns the result of a run. ended is when the last response had arrived.
func (r *run) result(record *record, self selfMeasurement, ended time.Duration, interrupted bool) *Result {
	window := r.window(record, ended, interrupted)
	result := &Result{
		URL: r.config.URL, Mode: Closed, Clients: r.config.Clients,
		Seconds: window.Seconds(), Requests: record.requests, Good: record.good,
		Statuses: record.statuses, Errors: record.errors, Latency: latencyOf(record.latency),
		BatchSizes: record.batches, Stages: map[string]Stage{}, Throughput: record.throughput,
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
		late: self.late, what: wakeUps, median: time.Duration(record.latency.ValueAtQuantile(50)) * time.Microsecond,
		notSent: record.errors[notSent], cpu: self.cpu, sameHost: r.target.sameHost.Load(),
	}
	if r.config.open() {
		result.Mode, result.Clients, result.Rate = Open, 0, r.config.Rate
		e.late, e.what = record.late, requests
	}
	result.Saturation = e.judge()
	return result
}

// window returns the actual length of the window.
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

// quantile returns milliseconds for a percentage.
func quantile(h *hdrhistogram.Histogram, percent float64) float64 {
	return float64(h.ValueAtQuantile(percent)) / 1000
}

func longest(h *hdrhistogram.Histogram) time.Duration {
	return time.Duration(h.Max()) * time.Microsecond
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// round rounds to three decimal places.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }
