package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// Bench is the subcommand bench.
type Bench struct {
	URL string `arg:"" name:"url" help:"Where to send pictures, such as http://localhost:8000/image; any server that answers a picture."`

	Method string   `default:"PUT" enum:"PUT,POST" help:"PUT or POST." group:"Requests"`
	Image  []string `name:"picture" sep:"none" type:"existingfile" help:"File to send; may be given again, they are sent in turn. Without it, a JPEG of 590x480." placeholder:"FILE" group:"Requests"`

	Clients     int     `default:"16" help:"Closed loop: clients, of which each sends its next request when it has its answer." group:"Load"`
	Rate        float64 `default:"0" help:"Open loop: requests a second, at random times (Poisson) whatever the server does; latencies count from the intended start. 0: closed loop." group:"Load"`
	MaxInFlight int     `default:"4096" help:"Open loop: requests that wait for answers at most; more aren't sent and count as failed." group:"Load"`
	Seed        uint64  `default:"1" help:"Open loop: chooses the times." group:"Load"`

	Duration       time.Duration `default:"10s" help:"How long to measure, up to 1h." group:"Time"`
	WarmUp         time.Duration `default:"1s" help:"How long to send before that; requests that begin in it aren't counted." group:"Time"`
	Requests       int           `default:"0" help:"End when so many requests were counted and answered; 0: no limit." group:"Time"`
	RequestTimeout time.Duration `default:"1m" help:"Time limit of a request." group:"Time"`

	JSON  string `name:"json" help:"Write the result as JSON, - to stdout in place of the report." placeholder:"FILE" group:"Output"`
	Plot  string `help:"Draw latencies by percentile, and the throughput over time, as .svg or .png." placeholder:"FILE" group:"Output"`
	Quiet bool   `help:"No progress on stderr." group:"Output"`
}

// fellBehindStatus is the exit status of a run whose load generator fell behind.
const fellBehindStatus = 3

// Help is what the help text says beside the flags.
func (*Bench) Help() string {
	return `An answer is good when its status is 2xx and its body a whole JPEG, PNG or WebP. Nothing is tried again.

The exit status is 1 when no answer was good, and 3 when the load generator fell behind: when more than 1 % of the
requests were sent more than 10 ms late (or 5 % of the median latency, if that is more), when --max-in-flight was
reached, or when the load generator took more than 25 % of the cores that it may use (75 % where the server is on
another machine). In a closed loop no request can be late; there a clock counts that asks to be woken every 10 ms.

Ctrl-C ends the run; what was measured until then is printed.`
}

// Validate is called by kong: what it finds is a usage error.
func (b *Bench) Validate() error {
	if b.Plot != "" && plotFormat(b.Plot) == "" {
		return fmt.Errorf("--plot %s: its name must end in .svg or .png", b.Plot)
	}
	config := b.config()
	return config.Validate()
}

// plotFormat is the format that a file's name asks for.
func plotFormat(file string) string {
	switch extension := filepath.Ext(file); extension {
	case ".svg", ".png":
		return extension[1:]
	}
	return ""
}

func (b *Bench) config() loadgen.Config {
	return loadgen.Config{
		URL: b.URL, Method: b.Method,
		Rate: b.Rate, Clients: b.Clients, MaxInFlight: b.MaxInFlight, Seed: b.Seed,
		WarmUp: b.WarmUp, Duration: b.Duration, Requests: b.Requests, RequestTimeout: b.RequestTimeout,
	}
}

// Run sends the load and tells what came of it.
func (b *Bench) Run(p program) error {
	config := b.config()
	var err error
	if config.Images, err = readFiles(b.Image); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process

	var progress func(loadgen.Progress)
	ticker := newTicker(p.err)
	if !b.Quiet {
		progress = ticker.showProgress
	}
	result, err := loadgen.Run(ctx, config, progress)
	ticker.erase()
	if err != nil {
		return err
	}
	if err := b.write(p.out, result); err != nil {
		return err
	}
	return verdict(result)
}

// verdict is an error if the result isn't what was asked for.
func verdict(result *loadgen.Result) error {
	switch {
	case result.Saturation.FellBehind:
		return &exitError{fellBehindStatus, "the load generator fell behind: " + result.Saturation.Reason}
	case result.Good == 0 && !result.Interrupted:
		return fmt.Errorf("none of %d requests to %s was answered by a picture", result.Requests, result.URL)
	}
	return nil
}

// write writes the report and the files.
func (b *Bench) write(out io.Writer, result *loadgen.Result) error {
	if b.JSON == "-" {
		return errors.Join(writeJSON(out, result), b.plot(result))
	}
	err := result.WriteReport(out)
	if b.JSON != "" {
		err = errors.Join(err, writeFile(b.JSON, func(to io.Writer) error { return writeJSON(to, result) }))
	}
	return errors.Join(err, b.plot(result))
}

func (b *Bench) plot(result *loadgen.Result) error {
	if b.Plot == "" {
		return nil
	}
	return writeFile(b.Plot, func(to io.Writer) error { return result.WritePlot(to, plotFormat(b.Plot)) })
}

// readFiles reads the pictures that are to be sent.
func readFiles(names []string) ([][]byte, error) {
	var files [][]byte
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func writeJSON(to io.Writer, result any) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

func writeFile(name string, write func(io.Writer) error) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}
