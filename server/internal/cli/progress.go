package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/torchherd/torchherd/server/internal/loadgen"
	"github.com/torchherd/torchherd/server/internal/tune"
)

// logInterval is how often progress is written where a line can't be overwritten.
const logInterval = 5 * time.Second

const eraseLine = "\r\x1b[K"

// A progressLine shows progress: on a terminal in one line that it overwrites, elsewhere by a line every few seconds.
type progressLine struct {
	to       io.Writer
	terminal bool
	last     time.Duration // when the last permanent line was written
	shown    bool          // there is a line to overwrite
}

func newProgressLine(to io.Writer) *progressLine {
	file, ok := to.(*os.File)
	return &progressLine{to: to, terminal: ok && isatty.IsTerminal(file.Fd())}
}

// show shows the progress at this time since the start.
func (l *progressLine) show(elapsed time.Duration, text string) {
	switch {
	case l.terminal:
		fmt.Fprint(l.to, eraseLine+text)
		l.shown = true
	case elapsed-l.last >= logInterval-time.Second/2: // progress is reported about once a second
		l.print(elapsed, text)
	}
}

// print writes a permanent line.
func (l *progressLine) print(elapsed time.Duration, text string) {
	l.erase()
	l.last = elapsed
	fmt.Fprintln(l.to, text)
}

// erase removes the line that is overwritten.
func (l *progressLine) erase() {
	if l.shown {
		fmt.Fprint(l.to, eraseLine)
		l.shown = false
	}
}

// load shows the progress of a load.
func (l *progressLine) load(p loadgen.Progress) {
	phase := ""
	if p.WarmingUp {
		phase = " (warm-up)"
	}
	l.show(p.Elapsed, fmt.Sprintf("%3.0f s%s  %d requests, %d failed  |  last second: %.1f good/s, p50 %.1f ms, p99 %.1f ms",
		p.Elapsed.Seconds(), phase, p.Requests, p.Failed, p.Goodput, inMs(p.P50), inMs(p.P99)))
}

// tune returns a function that shows the progress of a search for this model, with one permanent line for each round.
func (l *progressLine) tune(model string) func(tune.Progress) {
	return func(p tune.Progress) {
		text := fmt.Sprintf("%3.0f s  round %d: %v: ", p.Elapsed.Seconds(), p.Round, p.Settings)
		switch {
		case p.Stage == tune.Starting && l.terminal:
			l.show(p.Elapsed, text+"starting")
		case p.Stage == tune.Sending && p.Load == loadgen.Progress{} && !l.terminal:
			l.print(p.Elapsed, text+"sending")
		case p.Stage == tune.Sending:
			l.show(p.Elapsed, text+fmt.Sprintf("%d images, last second: %.1f/s", p.Load.Good, p.Load.Goodput))
		case p.Stage == tune.Done && p.Err != nil:
			l.print(p.Elapsed, text+tune.FirstLine(p.Err.Error(), model))
		case p.Stage == tune.Done:
			l.print(p.Elapsed, text+fmt.Sprintf("%.1f images/s, p99 %.1f ms", p.Measured.ImagesPerSecond, p.Measured.P99))
		}
	}
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
