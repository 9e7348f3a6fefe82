package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// Bench is the subcommand bench.
type Bench struct {
	URL string `arg:"" name:"url" help:"Where to send images, such as http://localhost:8000/image. Any server that responds with an image works. A unix socket: http://unix:/PATH:/image."`

	Method string   `default:"PUT" enum:"PUT,POST" help:"PUT or POST." group:"Requests"`
	Image  []string `name:"picture" sep:"none" type:"existingfile" help:"Image file to send; repeat the flag to send several in turn. Without it, a 590x480 JPEG." placeholder:"FILE" group:"Requests"`
	Part   []string `name:"part" sep:"none" help:"Further part of the request, for a model with several inputs: a text, or @ and the name of a file. Repeat the flag for several. Requests are then forms, with the image in the part image." placeholder:"NAME=VALUE" group:"Requests"`

	Clients     int     `default:"16" help:"Closed loop: number of clients; each sends its next request after the response to the last one." group:"Load"`
	Rate        float64 `default:"0" help:"Open loop: mean requests per second, at random times (Poisson) whatever the server does; latencies count from the intended start. 0: closed loop." group:"Load"`
	MaxInFlight int     `default:"4096" help:"Open loop: maximum number of requests in flight; more aren't sent and count as failed." group:"Load"`
	Seed        uint64  `default:"1" help:"Open loop: seed of the random times." group:"Load"`

	Duration       time.Duration `default:"10s" help:"How long to measure, up to 1h." group:"Time"`
	WarmUp         time.Duration `default:"1s" help:"How long to send before measuring; requests that start in it aren't counted." group:"Time"`
	Requests       int           `default:"0" help:"End when this many requests have been counted and completed; 0: no limit." group:"Time"`
	RequestTimeout time.Duration `default:"1m" help:"Time limit of a request." group:"Time"`

	JSON  string `name:"json" help:"Write the result as JSON; -: to stdout instead of the report." placeholder:"FILE" group:"Output"`
	Plot  string `help:"Plot latency by percentile and throughput over time, as .svg or .png." placeholder:"FILE" group:"Output"`
	Quiet bool   `help:"Don't show progress on stderr." group:"Output"`
}

// fellBehindStatus is the exit status if the load generator fell behind.
const fellBehindStatus = 3

// Help returns the part of the help text that doesn't describe a flag.
func (*Bench) Help() string {
	return `A response is good if its status is 2xx and its body a complete JPEG, PNG, WebP or AVIF. Requests aren't retried.

The exit status is 1 if no response was good, whether or not the load generator fell behind: nothing was measured.
Otherwise it is 3 if the load generator fell behind: if more than 1 % of the requests were sent more than 10 ms late (or
5 % of the median latency, if that is longer), if --max-in-flight was reached, or if the load generator used more than
25 % of the cores available to it (75 % if the server is on another machine). In a closed loop requests have no intended
start to be late for; there a timer that fires every 10 ms takes their place.

Ctrl-C ends the run and prints the results so far.`
}

// Validate is called by kong, which reports its errors as usage errors.
func (b *Bench) Validate() error {
	if b.Plot != "" && plotFormat(b.Plot) == "" {
		return fmt.Errorf("--plot %s: the name must end in .svg or .png", b.Plot)
	}
	config := b.config()
	return config.Validate()
}

// plotFormat returns the format that the extension of a file stands for, or "".
func plotFormat(file string) string {
	switch extension := filepath.Ext(file); extension {
	case ".svg", ".png":
		return extension[1:]
	}
	return ""
}

func (b *Bench) config() loadgen.Config {
	url, dial := unixTarget(b.URL)
	return loadgen.Config{
		URL: url, Dial: dial, Method: b.Method,
		Rate: b.Rate, Clients: b.Clients, MaxInFlight: b.MaxInFlight, Seed: b.Seed,
		WarmUp: b.WarmUp, Duration: b.Duration, Requests: b.Requests, RequestTimeout: b.RequestTimeout,
	}
}

// unixTarget returns the URL that requests to http://unix:/PATH:/image have, and how to connect. It is nginx's form. For
// other URLs dial is nil.
func unixTarget(url string) (_ string, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	rest, isUnix := strings.CutPrefix(url, "http://unix:")
	end := strings.LastIndex(rest, ":/")
	if !isUnix || end < 0 {
		return url, nil
	}
	path, resource := rest[:end], rest[end+1:]
	return "http://localhost" + resource, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
}

// Run sends the load and writes the result.
func (b *Bench) Run(p program) error {
	config := b.config()
	var err error
	if config.Images, err = readBodies(b.Image, b.Part); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second signal ends the process

	var progress func(loadgen.Progress)
	line := newProgressLine(p.err)
	if !b.Quiet {
		progress = line.load
	}
	result, err := loadgen.Run(ctx, config, progress)
	line.erase()
	if err != nil {
		return err
	}
	if err := b.write(p.out, result); err != nil {
		return err
	}
	return verdict(result)
}

// verdict returns an error if the figures can't be used. Without a good response nothing was measured, so it doesn't matter
// then whether the load generator fell behind.
func verdict(result *loadgen.Result) error {
	switch {
	case result.Good == 0 && !result.Interrupted:
		return fmt.Errorf("none of %d requests to %s got an image", result.Requests, result.URL)
	case result.Saturation.FellBehind:
		return &exitError{fellBehindStatus, "the load generator fell behind: " + result.Saturation.Reason}
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

// readFiles returns the contents of these files.
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

// readBodies returns the images of files, in forms if there are further parts. Without files and parts it returns none.
func readBodies(names, parts []string) ([][]byte, error) {
	images, err := readFiles(names)
	if err != nil || len(parts) == 0 {
		return images, err
	}
	if len(images) == 0 {
		images = [][]byte{loadgen.DefaultImage}
	}
	var further []loadgen.Part
	for _, each := range parts {
		name, value, found := strings.Cut(each, "=")
		if !found || name == "" {
			return nil, fmt.Errorf("invalid --part %q: use NAME=VALUE, or NAME=@FILE", each)
		}
		part := loadgen.Part{Name: name, Content: []byte(value)}
		if file, isFile := strings.CutPrefix(value, "@"); isFile {
			if part.Content, err = os.ReadFile(file); err != nil {
				return nil, err
			}
			part.IsFile = true
		}
		further = append(further, part)
	}
	for i, image := range images {
		if images[i], err = loadgen.Form(image, further); err != nil {
			return nil, err
		}
	}
	return images, nil
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
