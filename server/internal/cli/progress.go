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

// plainEvery is how often progress is told where it can't be rewritten.
const plainEvery = 5 * time.Second

const eraseLine = "\r\x1b[K"

// A ticker shows what is going on: on a terminal in one line that is rewritten, elsewhere by a line from time to time.
type ticker struct {
	to       io.Writer
	terminal bool
	last     time.Duration // when a line was written that stays
	shown    bool          // a line is there that is rewritten
}

func newTicker(to io.Writer) *ticker {
	file, ok := to.(*os.File)
	return &ticker{to: to, terminal: ok && isatty.IsTerminal(file.Fd())}
}

// show shows what is going on at this time since the start.
func (t *ticker) show(elapsed time.Duration, text string) {
	switch {
	case t.terminal:
		fmt.Fprint(t.to, eraseLine+text)
		t.shown = true
	case elapsed-t.last >= plainEvery-time.Second/2: // ticks come a little early or late
		t.say(elapsed, text)
	}
}

// say writes a line that stays.
func (t *ticker) say(elapsed time.Duration, text string) {
	t.erase()
	t.last = elapsed
	fmt.Fprintln(t.to, text)
}

// erase takes the line away that is rewritten.
func (t *ticker) erase() {
	if t.shown {
		fmt.Fprint(t.to, eraseLine)
		t.shown = false
	}
}

// showProgress shows the progress of a load.
func (t *ticker) showProgress(p loadgen.Progress) { t.show(p.Elapsed, progressText(p)) }

// showTuning shows the progress of a search; each round leaves a line.
func (t *ticker) showTuning(p tune.Progress) {
	text := fmt.Sprintf("%3.0f s  round %d: %v: ", p.Elapsed.Seconds(), p.Round, p.Settings)
	switch {
	case p.Stage == tune.Starting && t.terminal:
		t.show(p.Elapsed, text+"starting")
	case p.Stage == tune.Sending && p.Load == loadgen.Progress{} && !t.terminal:
		t.say(p.Elapsed, text+"sending")
	case p.Stage == tune.Sending:
		t.show(p.Elapsed, text+fmt.Sprintf("%d pictures, last second: %.1f/s", p.Load.Good, p.Load.Goodput))
	case p.Stage == tune.Done && p.Err != nil:
		t.say(p.Elapsed, text+tune.FirstLine(p.Err.Error()))
	case p.Stage == tune.Done:
		t.say(p.Elapsed, text+fmt.Sprintf("%.1f pictures/s, p99 %.1f ms", p.Measured.ImagesPerSecond, p.Measured.P99))
	}
}

func progressText(p loadgen.Progress) string {
	phase := ""
	if p.WarmingUp {
		phase = " (warm-up)"
	}
	return fmt.Sprintf("%3.0f s%s  %d requests, %d failed  |  last second: %.1f good/s, p50 %.1f ms, p99 %.1f ms",
		p.Elapsed.Seconds(), phase, p.Requests, p.Failed, p.Goodput, inMs(p.P50), inMs(p.P99))
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
