package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/loadgen"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/server/internal/tune"
)

// Tune is the subcommand tune.
type Tune struct {
	Model string `arg:"" optional:"" help:"Model to tune for, as serve takes it. Without it, the bundled model."`

	TargetP99 time.Duration `name:"target-p99" default:"0s" help:"What the 99th percentile of the latencies may be at most; 0: anything." group:"Aim"`
	MinPSNR   float64       `name:"min-psnr" default:"35" help:"What the answers of another precision must keep of fp32's, in dB." group:"Aim"`

	Clients int      `default:"16" help:"Clients, of which each sends its next picture when it has its answer." group:"Load"`
	Image   []string `name:"picture" sep:"none" type:"existingfile" help:"File to send; may be given again, they are sent in turn. Without it, a JPEG of 590x480." placeholder:"FILE" group:"Load"`

	Device *settings.Devices `help:"serve's --device." placeholder:"auto" group:"Server"`
	Size   *settings.Size    `help:"serve's --size." placeholder:"WIDTHxHEIGHT" group:"Server"`

	Duration time.Duration `default:"3s" help:"How long a round takes at least, roughly, once its server is ready." group:"Time"`
	Budget   time.Duration `default:"5m" help:"How long all of it may take." group:"Time"`

	Write string `help:"Write what it found into this model.yaml, and leave the rest of it as it is." placeholder:"FILE" group:"Output"`
	JSON  string `name:"json" help:"Write the result as JSON, - to stdout in place of the report." placeholder:"FILE" group:"Output"`
	Quiet bool   `help:"No progress on stderr." group:"Output"`
}

// missedTargetStatus is the exit status when no settings keep to the target.
const missedTargetStatus = 3

// Help is what the help text says beside the flags.
func (*Tune) Help() string {
	return `Each round starts a server on 127.0.0.1, sends it pictures and ends it. The search begins at serve's defaults and
changes one setting at a time: the size of batches, instances and their threads, precision, waiting. The best and the
defaults are then measured three times more, in turn. Of the settings that are as fast as the fastest, within the noise,
the simplest is taken. --max-queue-size follows --clients.

The exit status is 1 when the model can't be served, and 3 when no settings keep to --target-p99; the nearest are
printed then. Ctrl-C ends the search; what is known by then is printed.`
}

// Validate is called by kong: what it finds is a usage error.
func (t *Tune) Validate() error {
	config := t.config()
	return config.Validate()
}

func (t *Tune) config() tune.Config {
	c := tune.Config{
		Model: t.Model, Clients: t.Clients, Cores: runtime.GOMAXPROCS(0), // affinity and cgroup limits included
		TargetP99: t.TargetP99, MinPSNR: t.MinPSNR, KeepPrecision: isPackage(t.Model),
		Duration: t.Duration, Budget: t.Budget,
	}
	if t.Device != nil {
		c.Passed = append(c.Passed, "--device", t.Device.String())
	}
	if t.Size != nil {
		c.Passed = append(c.Passed, "--size", t.Size.String())
	}
	return c
}

// isPackage reports whether a model's newest version is an AOTInductor package. The server reports what can't be opened.
func isPackage(path string) bool {
	source, err := repository.Open(path)
	return err == nil && loader.New(source, &loader.Shared{}).IsPackage()
}

// Run searches and tells what it found.
func (t *Tune) Run(p program) error {
	pictures, err := readFiles(t.Image)
	if err != nil {
		return err
	}
	if len(pictures) == 0 {
		pictures = [][]byte{loadgen.DefaultImage}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// A second signal has nothing to add: the server that is running has a few seconds to end, or is killed.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	if _, err := t.modelYAML(nil); err != nil { // before the time is spent
		return err
	}
	config := t.config()
	var progress func(tune.Progress)
	if !t.Quiet {
		progress = newTicker(p.err).showTuning
	}
	result, err := tune.Run(ctx, config, &tune.Servers{Config: config, Program: program, Images: pictures}, progress)
	if err != nil {
		return err
	}
	if err := t.write(p.out, result); err != nil {
		return err
	}
	if result.MetTarget && t.Write != "" {
		if err := t.writeModelYAML(p.out, result); err != nil {
			return err
		}
	}
	if !result.MetTarget {
		return &exitError{missedTargetStatus, fmt.Sprintf("no settings keep to --target-p99 %v; the nearest have a p99 of %.1f ms",
			t.TargetP99, result.Taken.P99)}
	}
	return nil
}

// modelYAML is the file's text with other values.
func (t *Tune) modelYAML(values []settings.Value) ([]byte, error) {
	if t.Write == "" {
		return nil, nil
	}
	text, err := os.ReadFile(t.Write)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	text, err = settings.Edit(text, values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Write, err)
	}
	return text, nil
}

// writeModelYAML puts the file in place as a whole: a server may be watching it.
func (t *Tune) writeModelYAML(out io.Writer, result *tune.Result) error {
	var values []settings.Value
	for _, v := range result.Taken.Settings.Values(t.Clients) {
		values = append(values, settings.Value(v))
	}
	text, err := t.modelYAML(values)
	if err != nil {
		return err
	}
	// In the same folder, so that it can be renamed; the name is none that a server looks at.
	part := t.Write + ".new"
	err = os.WriteFile(part, text, 0o644) //nolint:gosec // settings aren't secret
	if err == nil {
		err = os.Rename(part, t.Write)
	}
	if err != nil {
		return err
	}
	if t.JSON != "-" {
		_, err = fmt.Fprintf(out, "\nWritten to %s.\n", t.Write)
	}
	return err
}

// write writes the report and the file.
func (t *Tune) write(out io.Writer, result *tune.Result) error {
	if t.JSON == "-" {
		return writeJSON(out, result)
	}
	err := result.WriteReport(out)
	if t.JSON != "" {
		err = errors.Join(err, writeFile(t.JSON, func(to io.Writer) error { return writeJSON(to, result) }))
	}
	return err
}
