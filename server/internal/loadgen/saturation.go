package loadgen

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A load generator that can't keep up measures itself instead of the server. It fell behind if one of these holds:
//
//   - More than maxLateShare of the requests were late: sent more than 10 ms after their intended start, or more than
//     5 % of the median latency if that is longer. A request of a closed loop has no intended start to be late for.
//     There a timer of this process that fires every 10 ms takes the requests' place: a client whose response has
//     arrived is woken as late as the timer.
//   - A request wasn't sent because MaxInFlight requests were in flight.
//   - This process used more than maxCPU of the cores available to it, or more than maxCPUSameHost if the server is on
//     the same machine and needs them too.
const (
	minLateness    = 10 * time.Millisecond
	lateOfMedian   = 0.05
	maxLateShare   = 0.01
	maxCPU         = 0.75
	maxCPUSameHost = 0.25

	wakeUpInterval = 10 * time.Millisecond
)

// What can be late.
const (
	requests = "requests"
	wakeUps  = "wake-ups"
)

// A selfMeasurement is what this process observed of itself during the window.
type selfMeasurement struct {
	late *hdrhistogram.Histogram // the lateness of wake-ups
	cpu  float64                 // the used share of the available cores, 0 to 1
}

// measureSelf observes this process until the window or ctx ends.
func (r *run) measureSelf(ctx context.Context) selfMeasurement {
	m := selfMeasurement{late: newHistogram()}
	if !r.sleepUntil(ctx, r.begin) {
		return m
	}
	start, before := r.elapsed(), cpuTime()
	for due := start + wakeUpInterval; due < r.end && r.sleepUntil(ctx, due); due = r.elapsed() + wakeUpInterval {
		observe(m.late, r.elapsed()-due)
	}
	if d := r.elapsed() - start; d > 0 {
		m.cpu = float64(cpuTime()-before) / float64(d) / float64(runtime.GOMAXPROCS(0))
	}
	return m
}

// cpuTime returns the CPU time that this process has used so far, in user and kernel mode.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0 // can't happen
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// Saturation describes how well the load generator kept up.
type Saturation struct {
	Late       int     `json:"late"`     // requests (in a closed loop: wake-ups) later than LimitMs
	WorstMs    float64 `json:"worst_ms"` // the greatest lateness
	LimitMs    float64 `json:"limit_ms"`
	NotSent    int     `json:"not_sent"`  // requests that would have exceeded MaxInFlight
	CPUShare   float64 `json:"cpu_share"` // the load generator's share of the cores available to it, 0 to 1
	FellBehind bool    `json:"fell_behind"`
	Reason     string  `json:"why"` // "" if it kept up
}

// evidence is what the saturation of a run is judged by.
type evidence struct {
	late     *hdrhistogram.Histogram
	what     string // was late: requests or wakeUps
	median   time.Duration
	notSent  int
	cpu      float64 // as in selfMeasurement
	sameHost bool    // the server is on this machine
}

func (e evidence) judge() Saturation {
	limit := max(minLateness, time.Duration(lateOfMedian*float64(e.median)))
	s := Saturation{LimitMs: inMs(limit), WorstMs: inMs(longest(e.late)), NotSent: e.notSent, CPUShare: round(e.cpu)}
	s.Late = countAbove(e.late, limit)
	var reasons []string
	if share := float64(s.Late) / float64(max(e.late.TotalCount(), 1)); share > maxLateShare {
		reasons = append(reasons, fmt.Sprintf("%.1f %% of its %s were more than %.0f ms late", 100*share, e.what, s.LimitMs))
	}
	if e.notSent > 0 {
		reasons = append(reasons, fmt.Sprintf("%d requests weren't sent because too many were in flight", e.notSent))
	}
	limitCPU := maxCPU
	if e.sameHost {
		limitCPU = maxCPUSameHost
	}
	if e.cpu > limitCPU {
		reasons = append(reasons, fmt.Sprintf("it used %.0f %% of the cores, more than %.0f %%", 100*e.cpu, 100*limitCPU))
	}
	s.Reason = strings.Join(reasons, "; ")
	s.FellBehind = s.Reason != ""
	return s
}

func countAbove(h *hdrhistogram.Histogram, limit time.Duration) int {
	count := int64(0)
	for _, bar := range h.Distribution() {
		if bar.From > limit.Microseconds() {
			count += bar.Count
		}
	}
	return int(count)
}
