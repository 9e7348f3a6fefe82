// Package cli is the torchherd command: its flags, their other sources, and what each subcommand does.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/torch"
)

const description = `Serves a PyTorch image-to-image model over HTTP: gathers single pictures into batches, runs them through the
model (TorchScript or an AOTInductor package), and answers each with its own.

Every flag can also be set by an environment variable (TORCHHERD_MAX_WAIT=2s) or in a YAML file given by --config
(max-wait: 2s). A flag wins over the environment, which wins over the file.`

// commands is the command line as kong reads it.
type commands struct {
	Serve   Serve   `cmd:"" help:"Serve a model."`
	Models  Models  `cmd:"" help:"List and change what a running server serves."`
	Bench   Bench   `cmd:"" help:"Send pictures to a server and measure its answers."`
	Tune    Tune    `cmd:"" help:"Find the settings by which this machine answers the most pictures."`
	Health  Health  `cmd:"" help:"Ask a running server whether it is ready; exits with 0 if it is, else with 1."`
	Version Version `cmd:"" help:"Print the versions of torchherd and of the libraries it was built with."`
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
		kong.Exit(func(code int) { exit = code }), // by --help
		kong.Bind(p),
	)
	if failure != nil {
		return complain(p.err, failure)
	}
	context, failure := parser.Parse(arguments)
	if exit >= 0 {
		return exit
	}
	if failure != nil {
		_ = complain(p.err, failure)
		fmt.Fprintln(p.err, "torchherd: for all flags type: torchherd "+strings.TrimSpace(commandName(failure)+" --help"))
		return 2
	}
	if failure := context.Run(); failure != nil {
		return complain(p.err, failure)
	}
	return 0
}

// complain prints an error and returns the exit status for it.
func complain(to io.Writer, failure error) int {
	fmt.Fprintln(to, "torchherd: "+failure.Error())
	var own *exitError
	if errors.As(failure, &own) {
		return own.status
	}
	return 1
}

// An exitError is an error with an exit status of its own.
type exitError struct {
	status int
	text   string
}

func (e *exitError) Error() string { return e.text }

// commandName is the subcommand that a usage error belongs to, or "".
func commandName(failure error) string {
	var parse *kong.ParseError
	if errors.As(failure, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		return parse.Context.Selected().Name
	}
	return ""
}

// program is what the subcommands get to know of the program.
type program struct {
	version string
	out     io.Writer
	err     io.Writer
	process bool // the command is all that this process does
}

// Version is the subcommand version.
type Version struct{}

// Run prints the versions.
func (*Version) Run(p program) error {
	_, err := fmt.Fprintf(p.out, "torchherd %s\nLibTorch %s\nlibjpeg-turbo %s\n", p.version, torch.Version(), torch.JPEGVersion())
	return err
}

// Main runs the command of this process and ends it.
func Main(version string) {
	p := program{version: version, out: os.Stdout, err: os.Stderr, process: true}
	os.Exit(p.run(os.Args[1:]))
}
