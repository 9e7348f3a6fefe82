// Package cli is the torchherd command: its flags, environment variables and config file, and its subcommands.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/torch"
)

const description = `Torchherd serves PyTorch image-to-image models (TorchScript or AOTInductor packages) over HTTP. It gathers requests of one
image each into batches for the model, and responds to each request with its own image.

Every flag can also be set by an environment variable (TORCHHERD_MAX_WAIT=2s), and the flags of serve also in a YAML file
(max-wait: 2s) given by --config. A flag overrides the environment, which overrides the file.`

// commands is the command line as kong reads it.
type commands struct {
	Serve   Serve   `cmd:"" help:"Serve models over HTTP."`
	Models  Models  `cmd:"" help:"List, load and unload the models of a running server, or check a model without one."`
	Bench   Bench   `cmd:"" help:"Send images to a server and measure its responses."`
	Tune    Tune    `cmd:"" help:"Find the settings with which this machine processes the most images per second."`
	Debug   Debug   `cmd:"" help:"Collect what a report of a problem needs."`
	Health  Health  `cmd:"" help:"Check whether a running server is ready. The exit status is 0 if it is, else 1."`
	Version Version `cmd:"" help:"Print the versions of torchherd, LibTorch and libjpeg-turbo."`
}

// newParser returns a parser that stores its result in c.
func newParser(c *commands, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append(options,
		kong.Name("torchherd"),
		kong.Description(description),
		kong.DefaultEnvars("TORCHHERD"),
		kong.Configuration(loadYAML),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"admin_listen": "127.0.0.1:8002", "max_pixels": strconv.Itoa(imagecodec.DefaultMaxPixels)},
		settingVars(),
	)...)
}

// Model returns kong's model of the command line, from which the documentation is generated.
func Model() (*kong.Application, error) {
	parser, err := newParser(&commands{})
	if err != nil {
		return nil, err
	}
	return parser.Model, nil
}

// Run runs the command with these arguments (without the program's name) and returns its exit status.
func Run(version string, arguments []string, out, err io.Writer) int {
	return program{version: version, out: out, err: err}.run(arguments)
}

func (p program) run(arguments []string) int {
	exit := -1
	parser, failure := newParser(&commands{},
		kong.Writers(p.out, p.err),
		kong.Exit(func(code int) { exit = code }), // called by --help
		kong.Bind(p),
	)
	if failure != nil {
		return reportError(p.err, failure)
	}
	context, failure := parser.Parse(arguments)
	if exit >= 0 {
		return exit
	}
	if failure != nil {
		_ = reportError(p.err, failure)
		fmt.Fprintf(p.err, "Run \"%s --help\" for usage.\n", commandOf(failure))
		return 2
	}
	context.Bind(valuesOf(context))
	if failure := context.Run(); failure != nil {
		return reportError(p.err, failure)
	}
	return 0
}

// reportTime is how long the exit waits for an error's text to be written.
const reportTime = 500 * time.Millisecond

// reportError prints an error and returns the exit status for it. It gives up if the reader of the text stands still.
func reportError(to io.Writer, failure error) int {
	status := 1
	var own *exitError
	if errors.As(failure, &own) {
		status = own.status
	}
	if own == nil || own.text != "" {
		printed := make(chan struct{})
		go func() {
			fmt.Fprintln(to, "torchherd: "+failure.Error())
			close(printed)
		}()
		select {
		case <-printed:
		case <-time.After(reportTime):
		}
	}
	return status
}

// An exitError is an error with an exit status of its own.
type exitError struct {
	status int
	text   string // empty: it has been reported
}

func (e *exitError) Error() string { return e.text }

// commandOf returns the command that a usage error belongs to, such as "torchherd models load".
func commandOf(failure error) string {
	var parse *kong.ParseError
	if errors.As(failure, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		return parse.Context.Selected().FullPath()
	}
	return "torchherd"
}

// A program is the environment of a subcommand.
type program struct {
	version string
	out     io.Writer // stdout
	err     io.Writer // stderr
	process bool      // the process exits after the command, so the command may change its global state
}

// Version is the subcommand version.
type Version struct{}

// Run prints the versions.
func (*Version) Run(p program) error {
	_, err := fmt.Fprintf(p.out, "torchherd %s\nLibTorch %s\nlibjpeg-turbo %s\n", p.version, torch.Version(), torch.JPEGVersion())
	return err
}

// The main thread stays with the main goroutine. Loads and runners have threads of their own, with which LibTorch's state for
// that thread ends. If a goroutine that is locked to the main thread ends, Go parks the thread: OpenMP's threads for it then
// stay, and OpenMP takes the cores for overloaded until the process ends.
func init() { runtime.LockOSThread() }

// Main runs the command in os.Args, or a model for another process of this program, and exits with its status.
func Main(version string) {
	isolation.Main()
	p := program{version: version, out: os.Stdout, err: os.Stderr, process: true}
	// A forward or a load that hangs may still run in its thread. Under the race detector os.Exit calls C's exit handlers,
	// which would take LibTorch's memory from it.
	syscall.Exit(p.run(os.Args[1:]))
}
