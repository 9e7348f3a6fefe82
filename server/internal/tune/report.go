package tune

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
)

// WriteReport writes the result for people: the table, what was decided, and the command line.
func (r *Result) WriteReport(to io.Writer) error {
	var b strings.Builder
	r.writeTable(&b)
	fmt.Fprintln(&b)
	r.writeDoubts(&b)
	r.writeDecision(&b)
	_, err := io.WriteString(to, b.String())
	return err
}

func (r *Result) writeTable(b *strings.Builder) {
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, strings.TrimRight(strings.Join(cells, "\t"), "\t")) }
	row("settings", "pictures/s", "p50 ms", "p99 ms", "    dB", "again", "remark")
	for _, t := range r.Trials {
		if t.Failure != "" {
			row(t.Settings.String(), "", "", "", "", "", r.remark(t))
			continue
		}
		again := ""
		if t.Rounds > 0 {
			again = fmt.Sprintf("%5d", t.Rounds)
		}
		row(t.Settings.String(), fmt.Sprintf("%10.1f", t.ImagesPerSecond), fmt.Sprintf("%6.1f", t.P50),
			fmt.Sprintf("%6.1f", t.P99), t.decibels(), again, r.remark(t))
	}
	_ = table.Flush() // a strings.Builder takes everything
}

func (t *Trial) decibels() string {
	if t.Settings.Precision == fp32 {
		return ""
	}
	return fmt.Sprintf("%6.1f", t.PSNR)
}

// longest is how many letters of a failure the table shows; all of it stands in the JSON.
const longest = 100

// FirstLine is what the table shows of a failure.
func FirstLine(failure string) string {
	line, _, _ := strings.Cut(failure, "\n")
	if letters := []rune(line); len(letters) > longest {
		line = string(letters[:longest]) + "..."
	}
	return line
}

// remark is the last cell of a trial's row.
func (r *Result) remark(t *Trial) string {
	switch why := r.config.unusable(t); {
	case why != "":
		return FirstLine(why)
	case t == r.Taken:
		return "taken"
	case !r.config.inTime(t):
		return "p99 above the target"
	}
	return ""
}

// writeDoubts says what the figures can't be trusted for.
func (r *Result) writeDoubts(b *strings.Builder) {
	behind, why := 0, ""
	for _, t := range r.Trials {
		if t.FellBehind != "" {
			behind++
			why = t.FellBehind
		}
	}
	if behind > 0 {
		fmt.Fprintf(b, "With %d of %d settings the load generator fell behind, and the server can do more than the figures "+
			"say: %s.\n", behind, len(r.Trials), why)
	}
	switch {
	case r.Interrupted:
		fmt.Fprintln(b, "Interrupted; this is what was known by then.")
	case r.BudgetSpent:
		fmt.Fprintf(b, "The budget of %v ended before everything was tried.\n", r.config.Budget)
	}
	if r.Taken.Rounds == 0 {
		fmt.Fprintln(b, "It wasn't measured again, so luck may have decided.")
	}
}

// writeDecision says what was taken and why, and how to serve by it.
func (r *Result) writeDecision(b *strings.Builder) {
	switch {
	case !r.MetTarget:
		fmt.Fprintf(b, "No settings keep the p99 at %v or below with %d clients. The nearest:\n",
			r.config.TargetP99, r.Clients)
	case r.Near > 1:
		fmt.Fprintf(b, "%d settings are as fast as the fastest within %.0f %%, which may be noise; the simplest of them:\n",
			r.Near, 100*r.Tolerance)
	default:
		fmt.Fprintln(b, "The fastest:")
	}
	fmt.Fprintf(b, "\n%s\n\n", commandLine(r.Command))
	switch {
	case r.SpeedUp == 0:
		fmt.Fprintln(b, "The defaults can't be used; see the table.")
	case r.Taken.Settings == Defaults():
		fmt.Fprintln(b, "Those are the defaults, but for a queue that has room for all clients.")
	default:
		fmt.Fprintf(b, "%.1f times the pictures/s of the defaults (with the same queue).\n", r.SpeedUp)
	}
}

// plain is what a shell takes as it stands.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]+$`)

// commandLine is a command as one types it.
func commandLine(command []string) string {
	quoted := make([]string, len(command))
	for i, word := range command {
		quoted[i] = word
		if !plain.MatchString(word) {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
