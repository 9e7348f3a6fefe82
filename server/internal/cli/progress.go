package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/torchherd/torchherd/server/internal/load"
)

// plainEvery is how often progress is told where it can't be rewritten.
const plainEvery = 5 * time.Second

// showProgress returns how to show progress: on a terminal one line that is rewritten, and that erase takes away;
// elsewhere a line from time to time.
func showProgress(to io.Writer) (show func(load.Progress), erase func()) {
	if file, ok := to.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		const eraseLine = "\r\x1b[K"
		return func(p load.Progress) { fmt.Fprint(to, eraseLine+progressText(p)) }, func() { fmt.Fprint(to, eraseLine) }
	}
	var last time.Duration
	return func(p load.Progress) {
		if p.Elapsed-last >= plainEvery-time.Second/2 { // ticks come a little early or late
			last = p.Elapsed
			fmt.Fprintln(to, progressText(p))
		}
	}, func() {}
}

func progressText(p load.Progress) string {
	phase := ""
	if p.WarmingUp {
		phase = " (warm-up)"
	}
	return fmt.Sprintf("%3.0f s%s  %d requests, %d failed  |  last second: %.1f good/s, p50 %.1f ms, p99 %.1f ms",
		p.Elapsed.Seconds(), phase, p.Requests, p.Failed, p.Goodput, inMs(p.P50), inMs(p.P99))
}

func inMs(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
