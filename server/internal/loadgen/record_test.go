package loadgen

import (
	"bytes"
	"image/png"
	"math"
	"strings"
	"testing"
	"time"
)

// These tests use the internals, for what a server can't cause reliably.

func TestLatencyCountsFromTheIntendedStart(t *testing.T) {
	r := newRecord(time.Second, 10*time.Second)
	good := func(intended, sent, ended time.Duration) {
		r.add(&sample{intended: intended, sent: sent, ended: ended, status: 200})
	}
	good(900*time.Millisecond, 2*time.Second, 2500*time.Millisecond) // in the warm-up
	good(2*time.Second, 5*time.Second, 5100*time.Millisecond)
	if r.requests != 1 || r.good != 1 || r.latency.TotalCount() != 1 {
		t.Fatalf("%d requests, %d good", r.requests, r.good)
	}
	if got := longest(r.latency).Round(10 * time.Millisecond); got != 3100*time.Millisecond {
		t.Errorf("latency %v", got)
	}
	if got := longest(r.late).Round(10 * time.Millisecond); got != 3*time.Second {
		t.Errorf("late by %v", got)
	}
	// The throughput includes the response to the request of the warm-up.
	if len(r.throughput) != 5 || r.throughput[1] != 1 || r.throughput[4] != 1 {
		t.Errorf("throughput %v", r.throughput)
	}
}

func TestNumberOfTextsIsLimited(t *testing.T) {
	counts := map[string]int{}
	for i := range 1000 {
		countText(counts, strings.Repeat("x", i))
	}
	if len(counts) != maxTexts+1 || counts["others"] != 1000-maxTexts {
		t.Errorf("%d texts, %d others", len(counts), counts["others"])
	}
}

// The times between the arrivals of a Poisson process are exponentially distributed: their standard deviation equals
// their mean, and a share of 1/e exceeds it.
func TestArrivalsAreAPoissonProcess(t *testing.T) {
	const rate, n = 1000.0, 100_000
	s := newSchedule(rate, 1)
	var sum, squares float64
	above := 0
	last := time.Duration(0)
	for range n {
		at := s.next()
		gap := (at - last).Seconds() * rate
		last = at
		sum += gap
		squares += gap * gap
		if gap > 1 {
			above++
		}
	}
	mean := sum / n
	deviation := math.Sqrt(squares/n - mean*mean)
	if math.Abs(mean-1) > 0.02 || math.Abs(deviation-1) > 0.02 || math.Abs(float64(above)/n-1/math.E) > 0.01 {
		t.Errorf("mean %v, deviation %v, %v above the mean", mean, deviation, float64(above)/n)
	}
}

func TestSaturation(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		late     map[time.Duration]int // counts by lateness
		median   time.Duration
		notSent  int
		cpu      float64
		sameHost bool
		count    int
		reason   string // a part; "": it kept up
	}{
		"nothing sent":            {nil, 0, 0, 0, false, 0, ""},
		"all in time":             {map[time.Duration]int{9 * ms: 1000}, 50 * ms, 0, 0.2, true, 0, ""},
		"1 % late":                {map[time.Duration]int{0: 990, 20 * ms: 10}, 50 * ms, 0, 0.2, true, 10, ""},
		"more than 1 % late":      {map[time.Duration]int{0: 989, 20 * ms: 11}, 50 * ms, 0, 0.2, true, 11, "1.1 % of its requests"},
		"less than 5 % of median": {map[time.Duration]int{40 * ms: 1000}, time.Second, 0, 0.2, true, 0, ""},
		"more than 5 % of median": {map[time.Duration]int{60 * ms: 1000}, time.Second, 0, 0.2, true, 1000, "50 ms"},
		"too many in flight":      {nil, 0, 3, 0, true, 0, "3 requests weren't sent"},
		"CPU":                     {nil, 0, 0, 0.3, false, 0, ""},
		"CPU of the server":       {nil, 0, 0, 0.3, true, 0, "30 % of the cores, more than 25 %"},
		"most of the CPU":         {nil, 0, 0, 0.9, false, 0, "90 % of the cores, more than 75 %"},
		"two reasons":             {nil, 0, 3, 0.9, false, 0, "in flight; it used"},
	} {
		e := evidence{newHistogram(), requests, test.median, test.notSent, test.cpu, test.sameHost}
		for lateness, count := range test.late {
			for range count {
				observe(e.late, lateness)
			}
		}
		s := e.judge()
		if s.FellBehind != (test.reason != "") || s.FellBehind != (s.Reason != "") ||
			!strings.Contains(s.Reason, test.reason) || s.Late != test.count {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestNextMetric(t *testing.T) {
	for header, want := range map[string]metric{
		"decode;dur=1.5":            {"decode", true, 1500 * time.Microsecond, 0},
		"total ; dur=2;desc=x":      {"total", true, 2 * time.Millisecond, 0},
		`batch;desc="12"`:           {"batch", false, 0, 12},
		"batch;desc=12":             {"batch", false, 0, 12},
		"cache":                     {"cache", false, 0, 0},
		"a;dur=-1":                  {"a", false, 0, 0},
		"a;dur=1e300":               {"a", false, 0, 0},
		"a;dur=NaN":                 {"a", false, 0, 0},
		"a;dur=soon;DUR=1":          {"a", true, time.Millisecond, 0},
		";;==,":                     {"", false, 0, 0},
		"a;desc=999999999999999999": {"a", false, 0, 999999999999999999},
	} {
		if got, rest := nextMetric(header); got != want || rest != "" {
			t.Errorf("%q: %+v, then %q", header, got, rest)
		}
	}
	if first, rest := nextMetric("a;dur=1, b;dur=2"); first.name != "a" || rest != " b;dur=2" {
		t.Errorf("%+v, then %q", first, rest)
	}
}

// example returns a result with a value in every field.
func example(mode string) *Result {
	r := &Result{
		URL: "http://localhost:8000/image", Mode: mode, Clients: 16, Rate: 12.5, Seconds: 2.5,
		Requests: 12, Good: 10, Goodput: 4,
		Statuses: map[int]int{200: 10, 503: 1}, Errors: map[string]int{"read: connection reset by peer": 1},
		Latency:    Latency{Mean: 12, P50: 10, P90: 20, P95: 30, P99: 40, P999: 50, Max: 60.5},
		BatchSizes: map[int]int{2: 4, 1: 6}, Stages: map[string]Stage{"decode": {1, 2, 3}},
		Throughput: []int{4, 4, 2}, latency: newHistogram(),
		Saturation: Saturation{Late: 5, LimitMs: 10, WorstMs: 12.5, CPUShare: 0.125},
	}
	for i := range 10 {
		observe(r.latency, time.Duration(i)*10*time.Millisecond)
	}
	return r
}

func TestReport(t *testing.T) {
	var b strings.Builder
	if err := example(Closed).WriteReport(&b); err != nil {
		t.Fatal(err)
	}
	const want = `load         closed loop, 16 clients, 2.5 s
url          http://localhost:8000/image
requests     12, 10 good, 2 failed
goodput      4.0/s
statuses     200: 10, 503: 1
batch sizes  1: 6, 2: 4
error        1: read: connection reset by peer

       ms   mean    p50    p90    p95    p99  p99.9    max
  latency  12.00  10.00  20.00  30.00  40.00  50.00  60.50
   decode   1.00   2.00                 3.00              

The load generator used 12.5 % of the cores; 5 wake-ups were more than 10 ms late, the worst by 12.5 ms.
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	r := example(Open)
	r.Interrupted, r.CutOff, r.Saturation.FellBehind, r.Saturation.Reason = true, 3, true, "it used too much"
	b.Reset()
	if err := r.WriteReport(&b); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		"open loop, 12.5 requests/s", "Interrupted; 3 requests", "5 requests were more", "FELL BEHIND", "it used too much",
	} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("no %q in\n%s", part, b.String())
		}
	}
}

func TestPlots(t *testing.T) {
	empty := &Result{URL: "http://localhost", Throughput: []int{}, latency: newHistogram()}
	for name, r := range map[string]*Result{"example": example(Closed), "empty": empty} {
		var b bytes.Buffer
		if err := r.WritePlot(&b, PNG); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if decoded, err := png.Decode(&b); err != nil || decoded.Bounds().Dx() != plotWidth ||
			decoded.Bounds().Dy() != 2*plotHeight {
			t.Errorf("%s: %v", name, err)
		}
		b.Reset()
		if err := r.WritePlot(&b, SVG); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if svg := b.String(); !strings.HasPrefix(svg, "<svg") || !strings.Contains(svg, "90 %") ||
			!strings.Contains(svg, "good responses in each second") {
			t.Errorf("%s: %.200s", name, svg)
		}
	}
}
