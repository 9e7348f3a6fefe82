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

// A load generator that can't keep up measures itself. Three signs are looked for; any of them is enough:
//
//   - More than maxLateShare of the requests were late: sent more than 10 ms after their intended start or, where 5 %
//     of the median latency are more than that, by more than those. In a closed loop a request has no time to be
//     late for; there a clock in this process takes its place, which asks to be woken every 10 ms. A client that has
//     an answer is woken as late as that clock.
//   - A request wasn't sent, because MaxInFlight were under way.
//   - This process took more of the cores that it may use than maxCPU, or than maxCPUBeside where the server is on the
//     same machine and could have used them.
const (
	lateBy       = 10 * time.Millisecond
	lateOfMedian = 0.05
	maxLateShare = 0.01
	maxCPU       = 0.75
	maxCPUBeside = 0.25

	wakeUpEvery = 10 * time.Millisecond
)

// What can be late.
const (
	requests = "requests"
	wakeUps  = "wake-ups"
)

// A watch is what was seen of this process itself during the window.
type watch struct {
	late *hdrhistogram.Histogram // how late it was woken
	cpu  float64                 // the share that it took of the cores that it may use, 0 to 1
}

// watch watches until the window or ctx ends.
func (r *run) watch(ctx context.Context) watch {
	w := watch{late: newHistogram()}
	if !r.sleepUntil(ctx, r.begin) {
		return w
	}
	began, before := r.elapsed(), cpuTime()
	for due := began + wakeUpEvery; due < r.end && r.sleepUntil(ctx, due); due = r.elapsed() + wakeUpEvery {
		observe(w.late, r.elapsed()-due)
	}
	if took := r.elapsed() - began; took > 0 {
		w.cpu = float64(cpuTime()-before) / float64(took) / float64(runtime.GOMAXPROCS(0))
	}
	return w
}

// cpuTime is what this process has used so far, in its own code and in the system's.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0 // it has no way to fail
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// A Behind says how well the load generator kept up.
type Behind struct {
	Late       int     `json:"late"`     // requests (in a closed loop wake-ups) that were later than LimitMs
	WorstMs    float64 `json:"worst_ms"` // the latest
	LimitMs    float64 `json:"limit_ms"`
	NotSent    int     `json:"not_sent"`  // requests for which there was no room in flight
	CPUShare   float64 `json:"cpu_share"` // what the load generator took of the cores that it may use, 0 to 1
	FellBehind bool    `json:"fell_behind"`
	Why        string  `json:"why"` // "" if it didn't fall behind
}

// evidence is what a run is judged by.
type evidence struct {
	late    *hdrhistogram.Histogram
	what    string // that was late, in the plural
	median  time.Duration
	notSent int
	cpu     float64 // as in watch
	beside  bool    // the server is on this machine
}

func (e evidence) judge() Behind {
	limit := max(lateBy, time.Duration(lateOfMedian*float64(e.median)))
	b := Behind{LimitMs: inMs(limit), WorstMs: inMs(longest(e.late)), NotSent: e.notSent, CPUShare: round(e.cpu)}
	b.Late = countAbove(e.late, limit)
	var why []string
	if share := float64(b.Late) / float64(max(e.late.TotalCount(), 1)); share > maxLateShare {
		why = append(why, fmt.Sprintf("%.1f %% of its %s were more than %.0f ms late", 100*share, e.what, b.LimitMs))
	}
	if e.notSent > 0 {
		why = append(why, fmt.Sprintf("%d requests weren't sent, because too many were in flight", e.notSent))
	}
	most := maxCPU
	if e.beside {
		most = maxCPUBeside
	}
	if e.cpu > most {
		why = append(why, fmt.Sprintf("it took %.0f %% of the cores, more than %.0f %%", 100*e.cpu, 100*most))
	}
	b.Why = strings.Join(why, "; ")
	b.FellBehind = b.Why != ""
	return b
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
