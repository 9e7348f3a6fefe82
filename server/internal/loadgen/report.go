package loadgen

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteReport writes the result for people.
func (r *Result) WriteReport(to io.Writer) error {
	var b strings.Builder
	r.writeCounts(&b)
	r.writeTimes(&b)
	r.writeVerdict(&b)
	_, err := io.WriteString(to, b.String())
	return err
}

func (r *Result) writeCounts(b *strings.Builder) {
	load := fmt.Sprintf("closed loop, %d clients", r.Clients)
	if r.Mode == Open {
		load = fmt.Sprintf("open loop, %s requests/s", number(r.Rate))
	}
	columns := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) { fmt.Fprintf(columns, name+"\t"+format+"\n", values...) }
	row("load", "%s, %.1f s", load, r.Seconds)
	row("url", "%s", r.URL)
	row("requests", "%d, %d good, %d failed", r.Requests, r.Good, r.Requests-r.Good)
	row("goodput", "%.1f/s", r.Goodput)
	if len(r.Statuses) > 0 {
		row("statuses", "%s", counts(r.Statuses))
	}
	if len(r.BatchSizes) > 0 {
		row("batch sizes", "%s", counts(r.BatchSizes))
	}
	for _, text := range slices.Sorted(maps.Keys(r.Errors)) {
		row("error", "%d: %s", r.Errors[text], text)
	}
	_ = columns.Flush() // writing to a strings.Builder can't fail
}

// counts returns a text such as "1: 20, 2: 400", sorted by key.
func counts(of map[int]int) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%d: %d", key, of[key]))
	}
	return strings.Join(parts, ", ")
}

// writeTimes writes the table of latencies and stages.
func (r *Result) writeTimes(b *strings.Builder) {
	if r.Good == 0 {
		return
	}
	columns := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintln(columns, strings.Join(cells, "\t")+"\t") }
	l := r.Latency
	fmt.Fprintln(b)
	row("ms", "mean", "p50", "p90", "p95", "p99", "p99.9", "max")
	row("latency", ms(l.Mean), ms(l.P50), ms(l.P90), ms(l.P95), ms(l.P99), ms(l.P999), ms(l.Max))
	for _, name := range slices.Sorted(maps.Keys(r.Stages)) {
		s := r.Stages[name]
		row(name, ms(s.Mean), ms(s.P50), "", "", ms(s.P99), "", "")
	}
	_ = columns.Flush()
}

// writeVerdict writes whether the figures can be trusted.
func (r *Result) writeVerdict(b *strings.Builder) {
	fmt.Fprintln(b)
	if r.Interrupted {
		fmt.Fprintf(b, "Interrupted; %d requests in flight aren't counted.\n", r.CutOff)
	}
	what := requests
	if r.Mode == Closed {
		what = wakeUps
	}
	s := &r.Saturation
	fmt.Fprintf(b, "The load generator used %.1f %% of the cores; %d %s were more than %.0f ms late, the worst by %.1f ms.\n",
		100*s.CPUShare, s.Late, what, s.LimitMs, s.WorstMs)
	if s.FellBehind {
		fmt.Fprintf(b, "IT FELL BEHIND, so these figures don't show what the server can do: %s.\n", s.Reason)
	}
}

func ms(value float64) string { return fmt.Sprintf("%.2f", value) }

func number(value float64) string { return strconv.FormatFloat(value, 'f', -1, 64) }
