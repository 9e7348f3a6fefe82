package tune

import (
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
)

// WriteReport writes the result for people: the table, the decision and the command line.
func (r *Result) WriteReport(to io.Writer) error {
	var b strings.Builder
	r.writeTable(&b)
	fmt.Fprintln(&b)
	r.writeCaveats(&b)
	r.writeDecision(&b)
	_, err := io.WriteString(to, b.String())
	return err
}

func (r *Result) writeTable(b *strings.Builder) {
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, strings.TrimRight(strings.Join(cells, "\t"), "\t")) }
	row("settings", "images/s", "p50 ms", "p99 ms", "    dB", "rounds", "remark")
	for _, t := range r.Trials {
		if t.Failure != "" {
			row(t.Settings.String(), "", "", "", "", "", r.remark(t))
			continue
		}
		rounds := ""
		if t.Rounds > 0 {
			rounds = fmt.Sprintf("%6d", t.Rounds)
		}
		row(t.Settings.String(), fmt.Sprintf("%8.1f", t.ImagesPerSecond), fmt.Sprintf("%6.1f", t.P50),
			fmt.Sprintf("%6.1f", t.P99), t.decibels(), rounds, r.remark(t))
	}
	_ = table.Flush() // writing to a strings.Builder can't fail
}

func (t *Trial) decibels() string {
	if t.Settings.Precision == fp32 {
		return ""
	}
	return fmt.Sprintf("%6.1f", t.PSNR)
}

// FirstLine returns the first line of an error about a model, for a table or a line of progress. It replaces the folders
// of the model's path by an ellipsis: they can be long, and would hide the reason that follows them.
func FirstLine(text, model string) string {
	if model != "" {
		model = filepath.Clean(model)
		if absolute, err := filepath.Abs(model); err == nil { // as the server prints it
			text = withoutFolders(text, absolute)
		}
		text = withoutFolders(text, model)
	}
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func withoutFolders(text, path string) string {
	const ellipsis = "…/"
	folders, name := filepath.Split(path)
	if len(folders) <= len(ellipsis) {
		return text
	}
	return strings.ReplaceAll(text, path, ellipsis+name)
}

// remark returns the last cell of a trial's row.
func (r *Result) remark(t *Trial) string {
	switch reason := r.config.rejection(t); {
	case reason != "":
		return FirstLine(reason, r.config.Model)
	case t == r.Chosen:
		return "chosen"
	case !r.config.meetsTarget(t):
		return "p99 above the target"
	}
	return ""
}

// writeCaveats writes what limits the value of the figures.
func (r *Result) writeCaveats(b *strings.Builder) {
	behind, reason := 0, ""
	for _, t := range r.Trials {
		if t.FellBehind != "" {
			behind++
			reason = t.FellBehind
		}
	}
	if behind > 0 {
		fmt.Fprintf(b, "The load generator fell behind with %d of %d settings, so the server may be faster than these figures: "+
			"%s.\n", behind, len(r.Trials), reason)
	}
	switch {
	case r.Interrupted:
		fmt.Fprintln(b, "Interrupted; these are the results so far.")
	case r.BudgetSpent:
		fmt.Fprintf(b, "The budget of %v ran out before everything was tried.\n", r.config.Budget)
	}
	if r.Chosen.Rounds == 0 {
		fmt.Fprintln(b, "The chosen settings were measured only once, so the choice may be due to noise.")
	}
}

// writeDecision writes which settings were chosen and why, and the command line.
func (r *Result) writeDecision(b *strings.Builder) {
	switch {
	case !r.MetTarget:
		fmt.Fprintf(b, "No settings keep the p99 at or below %v with %d clients. The closest:\n",
			r.config.TargetP99, r.Clients)
	case r.Near > 1:
		fmt.Fprintf(b, "%d settings are within %.0f %% of the fastest, which may be noise. The simplest of them:\n",
			r.Near, 100*r.Tolerance)
	default:
		fmt.Fprintln(b, "The fastest:")
	}
	fmt.Fprintf(b, "\n%s\n\n", commandLine(r.Command))
	switch {
	case r.SpeedUp == 0:
		fmt.Fprintln(b, "The defaults can't be used; see the table.")
	case r.Chosen.Settings == Defaults():
		fmt.Fprintln(b, "These are the defaults, apart from a queue with room for all clients.")
	default:
		fmt.Fprintf(b, "%.1f times the images/s of the defaults (with the same queue).\n", r.SpeedUp)
	}
}

// plain matches a word that needs no quotes in a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]+$`)

// commandLine returns a command as a person types it in a shell.
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
