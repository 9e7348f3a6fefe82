package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/app"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/logging"
	"github.com/torchherd/torchherd/server/internal/readiness"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Serve is the subcommand serve. The defaults of the first group are the constants of the Sanic demo.
type Serve struct {
	Model []string `arg:"" optional:"" help:"Models to serve: TorchScript modules (.pt), AOTInductor packages (.pt2) or folders with versions. The first is at /image, each at /image/NAME. Without any, the bundled model."`

	modelFlags
	sharedFlags

	MaxUpload bytesFlag `default:"4MiB" help:"Maximum size of a request body in bytes. In the Sanic demo: MAX_SIZE." group:"Images"`
	MaxPixels int64     `default:"${max_pixels}" help:"Maximum number of pixels of an image; checked before the image is decoded." group:"Images"`
	Compat    string    `default:"none" enum:"none,sanic" help:"sanic: behave like the Sanic demo, with its statuses and its fixed wait, without EXIF orientation and palette images." group:"Images"`

	Listen         string        `default:":8000" help:"Address to listen on." group:"Server"`
	AdminListen    string        `default:"${admin_listen}" help:"Admin API address (unauthenticated); off disables it." group:"Server"`
	Watch          bool          `help:"Load new versions as soon as their files are in place." group:"Server"`
	Settle         time.Duration `default:"1s" help:"With --watch, how long the files of a new version must be unchanged before it is loaded, so that their copy is complete." group:"Server"`
	RequestTimeout time.Duration `default:"1m" help:"Time limit of a request; clients can shorten it by X-Request-Timeout. 0: no limit." group:"Server"`
	DrainDelay     time.Duration `default:"0s" help:"On SIGTERM or Ctrl-C, how long to accept requests while /readyz returns 503, so that load balancers can notice." group:"Server"`
	DrainTimeout   time.Duration `default:"30s" help:"After --drain-delay, time limit of the requests in flight; new requests are refused." group:"Server"`
	LogFormat      string        `default:"auto" enum:"auto,json,console" help:"auto: console on a terminal, else json." group:"Server"`
	LogLevel       string        `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error." group:"Server"`

	Trial   bool `default:"true" negatable:"" help:"Load each version in a child process first, so that one that crashes or hangs can't end the server." group:"Machine"`
	Isolate bool `help:"Serve each instance of a model in a child process, whose crash costs only its batch." group:"Machine"`

	Config kong.ConfigFlag `help:"YAML file with values of flags, by their names." group:"Server" placeholder:"FILE"`
}

// Run serves until a signal arrives.
func (s *Serve) Run(p program) error {
	if p.process {
		if err := setLibraries(); err != nil {
			return err
		}
	}
	log, err := logging.NewLog(os.Stderr, s.LogFormat, s.LogLevel)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	cores := cpu.Cores()
	if p.process {
		runtime.GOMAXPROCS(cpu.SlotCount(cores))
	}
	a, err := app.New(s.options(p.version, cores, log))
	if err != nil {
		return err
	}
	if err := a.Start(ctx); err != nil {
		return err
	}
	s.announce(log, a)
	if err := readiness.Notify(a.Ready()); err != nil {
		return errors.Join(err, a.Stop(ctx))
	}
	for {
		select {
		case <-reload:
			go func() { _ = a.Reload() }() // the models log their errors
		case err := <-a.Failed():
			return errors.Join(err, a.Stop(ctx))
		case <-ctx.Done():
			stop() // restores the default action, so a second signal ends the process
			log.Info().Msg("stopping; a second signal exits at once")
			return s.drain(a)
		}
	}
}

// drain stops the server within --drain-delay and --drain-timeout.
func (s *Serve) drain(a *app.App) error {
	late := fmt.Errorf("draining took longer than %v", s.DrainTimeout)
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.DrainDelay+s.DrainTimeout, late)
	defer cancel()
	return a.Stop(ctx)
}

// options returns the server's options for these flags.
func (s *Serve) options(version string, cores int, log zerolog.Logger) app.Options {
	o := app.Options{
		Models: s.Model, Listen: s.Listen, AdminListen: s.AdminListen,
		MaxUpload: int64(s.MaxUpload), MaxPixels: s.MaxPixels, RequestTimeout: s.RequestTimeout, Sanic: s.Compat == "sanic",
		Watch: s.Watch, Settle: s.Settle, DrainDelay: s.DrainDelay,
		PackageFolder: s.PackageFolder, MaxModelMemory: int64(s.MaxModelMemory), Trial: s.Trial, Isolate: s.Isolate, Override: s.override,
		CPUOnly: s.Device != nil && slices.Equal(*s.Device, settings.Devices{torch.CPU}),
		Cores:   cores, Version: version, Log: log,
	}
	if s.AdminListen == "off" {
		o.AdminListen = ""
	}
	return o
}

// ServeOptions returns the options with which `torchherd serve` starts a server for these arguments. The environment and a
// config file apply as they do to the command.
func ServeOptions(version string, arguments []string, log zerolog.Logger) (app.Options, error) {
	var c commands
	parser, err := newParser(&c)
	if err != nil {
		return app.Options{}, err
	}
	if _, err := parser.Parse(append([]string{"serve"}, arguments...)); err != nil {
		return app.Options{}, err
	}
	return c.Serve.options(version, cpu.Cores(), log), nil
}

// announce logs that the server is ready, and commands to try it.
func (s *Serve) announce(log zerolog.Logger, a *app.App) {
	_, port, _ := net.SplitHostPort(a.Addr())
	host, _, _ := net.SplitHostPort(s.Listen)
	if host == "" || strings.Contains(host, ":") || host == "0.0.0.0" {
		host = "localhost"
	}
	base := "http://" + net.JoinHostPort(host, port) + "/image"
	log.Info().Int("models", len(a.Models())).Msg("ready")
	log.Info().Msg("try it: curl -T photo.jpg " + base + " -o result.jpg")
	for _, model := range a.Models()[1:] {
		log.Info().Msg("try it: curl -T photo.jpg " + base + "/" + url.PathEscape(model.Name()) + " -o result.jpg")
	}
}
