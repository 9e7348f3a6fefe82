package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/loadgen"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/server/internal/tune"
	"github.com/torchherd/torchherd/torch"
)

// Tune is the subcommand tune.
type Tune struct {
	Model string `arg:"" optional:"" help:"Model to tune for, as on the command line of serve. Without it, the bundled model."`

	TargetP99 time.Duration `name:"target-p99" default:"0s" help:"Upper limit for the 99th percentile of the latency; 0: no limit." group:"Target"`
	MinPSNR   float64       `name:"min-psnr" default:"35" help:"Minimum PSNR, in dB, of responses in another precision compared with those in fp32." group:"Target"`

	Clients int      `default:"16" help:"Number of clients; each sends its next image after the response to the last one." group:"Load"`
	Image   []string `name:"picture" sep:"none" type:"existingfile" help:"Image file to send; repeat the flag to send several in turn. Without it, a 590x480 JPEG." placeholder:"FILE" group:"Load"`
	Part    []string `name:"part" sep:"none" help:"Further part of the request, for a model with several inputs: a text, or @ and the name of a file. Repeat the flag for several. Requests are then forms, with the image in the part image." placeholder:"NAME=VALUE" group:"Load"`

	Device    *settings.Devices `help:"As in serve." placeholder:"auto" group:"Server"`
	Size      *settings.Size    `help:"As in serve." placeholder:"WIDTHxHEIGHT" group:"Server"`
	Operators []string          `type:"path" help:"As in serve." placeholder:"FILE,..." group:"Server"`

	Duration time.Duration `default:"3s" help:"Approximate minimum duration of a round, once its server is ready." group:"Time"`
	Budget   time.Duration `default:"5m" help:"How long the whole search may take." group:"Time"`

	Write string `help:"Write the chosen settings into this model.yaml and keep the rest of it." placeholder:"FILE" group:"Output"`
	JSON  string `name:"json" help:"Write the result as JSON; -: to stdout instead of the report." placeholder:"FILE" group:"Output"`
	Quiet bool   `help:"Don't show progress on stderr." group:"Output"`
}

// missedTargetStatus is the exit status if no settings meet the target.
const missedTargetStatus = 3

// Help returns the part of the help text that doesn't describe a flag.
func (*Tune) Help() string {
	return `Each round starts a server on 127.0.0.1, sends it images and stops it. The search starts from the defaults of serve and
changes one setting at a time: batch size, instances and their threads, precision, maximum wait. Then it measures the
best settings and the defaults three more times, in turn, and chooses the simplest settings within the noise of the
fastest. --max-queue-size follows --clients.

The exit status is 1 if the model can't be served, and 3 if no settings meet --target-p99; then the closest ones are
printed. Ctrl-C ends the search and prints the results so far.`
}

// Validate is called by kong, which reports its errors as usage errors.
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
		c.ExtraArguments = append(c.ExtraArguments, "--device", t.Device.String())
	}
	if t.Size != nil {
		c.ExtraArguments = append(c.ExtraArguments, "--size", t.Size.String())
	}
	for _, library := range t.Operators {
		c.ExtraArguments = append(c.ExtraArguments, "--operators", strings.ReplaceAll(library, ",", `\,`))
	}
	return c
}

// isPackage reports whether the newest version of a model is an AOTInductor package. It leaves errors to the server, which
// reports them.
func isPackage(path string) bool {
	source, err := repository.Open(path)
	return err == nil && loader.New(source, &loader.Shared{}).IsPackage()
}

// Run searches and writes the result.
func (t *Tune) Run(p program) error {
	images, err := readBodies(t.Image, t.Part)
	if err != nil {
		return err
	}
	if len(images) == 0 {
		images = [][]byte{loadgen.DefaultImage}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// A second signal has no further effect: the running server is killed if it doesn't exit within a few seconds.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	if _, err := t.modelYAML(nil); err != nil { // rather now than after the search
		return err
	}
	config := t.config()
	var progress func(tune.Progress)
	if !t.Quiet {
		progress = newProgressLine(p.err).tune(t.Model)
	}
	// With these settings a server doesn't restart itself. A restart from another thread than the first would discard the
	// signal by which Linux ends the server together with this process.
	environment := torch.MissingEnvironment()
	servers := &tune.Servers{Config: config, Program: program, Environment: environment, Images: images}
	result, err := tune.Run(ctx, config, servers, progress)
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
		return &exitError{missedTargetStatus, fmt.Sprintf("no settings meet --target-p99 %v; the closest have a p99 of %.1f ms",
			t.TargetP99, result.Chosen.P99)}
	}
	return nil
}

// modelYAML returns the text of the file with these values.
func (t *Tune) modelYAML(values []settings.Value) ([]byte, error) {
	if t.Write == "" {
		return nil, nil
	}
	return editedYAML(t.Write, values)
}

// writeModelYAML writes the chosen settings.
func (t *Tune) writeModelYAML(out io.Writer, result *tune.Result) error {
	text, err := t.modelYAML(result.Chosen.Settings.Values(t.Clients))
	if err != nil {
		return err
	}
	if err := replaceFile(t.Write, text); err != nil {
		return err
	}
	if t.JSON != "-" {
		_, err = fmt.Fprintf(out, "\nWritten to %s.\n", t.Write)
	}
	return err
}

// write writes the report and the file with the JSON.
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
