package cli

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/app"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// timedRuns is the number of forward passes that are timed at each batch size.
const timedRuns = 5

type modelsCheck struct {
	Model string `arg:"" optional:"" help:"Model to check, as on the command line of serve. Without it, the bundled model."`

	Write bool `help:"If the model fails as it is, write settings with which it works into the model.yaml of its folder, and keep the rest of it." group:"Output"`

	modelFlags
	sharedFlags
}

// Run loads a model as serve does, times it and prints what it is.
func (c *modelsCheck) Run(p program) error {
	if p.process {
		if err := setLibraries(); err != nil {
			return err
		}
	}
	if len(c.Operators) > 0 { // some need CUDA's libraries, and the model's device isn't known yet
		loader.ProbeCUDA()
	}
	if err := loader.LoadOperators(c.Operators); err != nil {
		return err
	}
	var paths []string
	if c.Model != "" {
		paths = []string{c.Model}
	}
	models, sources, err := app.OpenModels(paths, &loader.Shared{
		Slots: cpu.NewSlots(1), Cores: cpu.Cores(), Shares: cpu.NewShares(),
		MaxPixels: imagecodec.DefaultMaxPixels, PackageFolder: c.PackageFolder, Operators: c.Operators, MaxMemory: int64(c.MaxModelMemory),
		Trial:    p.process,                                            // which says what crashed, where this process would only end
		Override: c.override, TimedRuns: timedRuns, Log: zerolog.Nop(), // the report has everything
	}, 0, lifecycle.All)
	if err != nil {
		return err
	}
	defer models.Close()
	model := models.Default()
	if err := model.Reload(); err != nil {
		return errors.Join(fmt.Errorf("can't serve %v: %w", sources[0], err), c.writeHint(p.out, sources[0], err))
	}
	for _, warning := range model.Warnings() {
		if _, err := fmt.Fprintf(p.out, "warning: %s\n", warning); err != nil {
			return err
		}
	}
	for _, version := range model.ReadyVersions() {
		if err := describe(p.out, model.Name(), sources[0].String(), version); err != nil {
			return err
		}
		if err := c.writeHint(p.out, sources[0], version.WarmUp.Err); err != nil {
			return err
		}
	}
	return nil
}

// writeHint writes the settings that an error names into the model.yaml of the model's folder, with --write.
func (c *modelsCheck) writeHint(out io.Writer, source *repository.Source, failure error) error {
	var hint *loader.HintError
	if !c.Write || !errors.As(failure, &hint) {
		return nil
	}
	if !source.Numbered() {
		return fmt.Errorf("a single file has no model.yaml; make a folder with 1/model.pt or 1/model.pt2, and put beside 1 a model.yaml with: %s", hint.Settings())
	}
	path := filepath.Join(source.String(), settings.FileName)
	text, err := editedYAML(path, hint.Values)
	if err == nil {
		err = replaceFile(path, text)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Written to %s: %s\n", path, hint.Settings())
	return err
}

// describe prints the properties of a version and the durations of its forward passes.
func describe(out io.Writer, name, source string, v lifecycle.ReadyVersion) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, values ...any) {
		_, _ = fmt.Fprintf(table, "%s\t"+format+"\n", append([]any{name}, values...)...) // Flush returns the error
	}
	row("model", "%s, version %s, from %s", name, v.Version, source)
	row("weights", "%s parameters, %s", humanize.Comma(v.Parameters), humanize.IBytes(uint64(v.Bytes)))
	row("on", "%s, %d instance(s) of %d thread(s), %v", v.Devices, v.Instances, v.Threads, v.Precision)
	size := "size " + v.Settings.Size.String()
	if v.Settings.Size.Keep() {
		size = "their own size"
	}
	row("input", "%v, images of %s", v.Settings.Channels, size)
	if parts := v.Settings.Inputs.Parts(); len(parts) > 0 {
		names := make([]string, len(parts))
		for i, part := range parts {
			names[i] = part.Name
		}
		row("", "and %s", strings.Join(names, ", "))
	}
	row("warm-up", "%v", v.WarmUp.Duration.Round(time.Millisecond))
	for _, warning := range v.Findings.Warnings() {
		row("warning", "%s", warning)
	}
	if v.WarmUp.Err != nil {
		row("", "failed; images of another size may work: %v", v.WarmUp.Err)
	}
	if err := table.Flush(); err != nil || len(v.Timings) == 0 {
		return err
	}
	_, _ = fmt.Fprintln(out)
	row("batch", "input\toutput\tms\timages/s")
	for _, t := range v.Timings {
		row(fmt.Sprint(t.BatchSize), "%dx%d\t%dx%d, %d channel(s)\t%.2f\t%.1f", t.Input.Width, t.Input.Height, t.Output.Width, t.Output.Height, t.Output.Channels,
			t.Duration.Seconds()*1000, float64(t.BatchSize)/t.Duration.Seconds())
	}
	return table.Flush()
}
