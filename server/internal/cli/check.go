package cli

import (
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/model"
)

// timedRuns is how often a forward is timed at each batch size.
const timedRuns = 5

type modelsCheck struct {
	Model string `arg:"" optional:"" help:"The model, as serve takes it. Without it, the bundled model."`

	modelFlags
	sharedFlags
}

// Run does with a model what serve does before the first request.
func (c *modelsCheck) Run(p program) error {
	if p.process {
		if err := setLibraries(); err != nil {
			return err
		}
	}
	var paths []string
	if c.Model != "" {
		paths = []string{c.Model}
	}
	models, err := openModels(paths, &model.Host{
		Slots: cpu.NewSlots(1), Cores: runtime.GOMAXPROCS(0), Shares: cpu.NewShares(),
		MaxPixels: imagecodec.DefaultMaxPixels, PackageFolder: c.PackageFolder, MaxMemory: int64(c.MaxModelMemory),
		Override: c.override, TimedRuns: timedRuns, Log: zerolog.Nop(), // what there is to say is said at the end
	})
	if err != nil {
		return err
	}
	defer models.Close()
	served := models.Default()
	if err := served.Load(); err != nil {
		return fmt.Errorf("can't serve %v: %w", served.Source(), err)
	}
	for _, version := range served.Versions() {
		if err := describe(p.out, served, version); err != nil {
			return err
		}
	}
	return nil
}

// describe prints what a version is and how long its forwards take.
func describe(out io.Writer, served *model.Served, version *model.Version) error {
	info, settings := version.Info(), version.Settings()
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) {
		_, _ = fmt.Fprintf(table, "%s\t"+format+"\n", append([]any{name}, values...)...) // Flush tells of errors
	}
	row("model", "%s, version %v, of %v", served.Name(), version, served.Source())
	row("weights", "%s numbers, %s", humanize.Comma(info.Parameters), humanize.IBytes(uint64(info.Bytes)))
	row("on", "%s, %d instance(s) of %d thread(s), %v", version.Devices(), version.Instances(), version.Threads(), info.Precision)
	size := "size " + settings.Size.String()
	if settings.Size.Keep() {
		size = "their own size"
	}
	row("input", "%v, pictures of %s", settings.Channels, size)
	row("warm-up", "%v", version.WarmUp().Took.Round(time.Millisecond))
	if err := version.WarmUp().Err; err != nil {
		row("", "failed, and pictures of another size may work: %v", err)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(version.Timings()) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(out)
	row("batch", "input\toutput\tms\tpictures/s")
	for _, t := range version.Timings() {
		row(fmt.Sprint(t.Batch), "%dx%d\t%dx%d, %d channel(s)\t%.2f\t%.1f", t.Input.Width, t.Input.Height, t.Output.Width, t.Output.Height, t.Output.Channels,
			t.Took.Seconds()*1000, float64(t.Batch)/t.Took.Seconds())
	}
	return table.Flush()
}
