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

	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/app"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/listen"
	"github.com/torchherd/torchherd/server/internal/logging"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/readiness"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Serve is the subcommand serve. The defaults of the first group are the constants of the Sanic demo.
type Serve struct {
	Model []string `arg:"" optional:"" help:"Models to serve: TorchScript modules (.pt), AOTInductor packages (.pt2) or folders with versions. The first is at /image, each at /image/NAME. Without any, the bundled model."`

	modelFlags
	sharedFlags

	MaxUpload        bytesFlag `default:"4MiB" help:"Maximum size of a request body in bytes. In the Sanic demo: MAX_SIZE." group:"Images"`
	MaxReceiveMemory bytesFlag `default:"0" help:"Maximum memory in bytes for the request bodies that are being received, all together. 0: an eighth of what the cgroup or the machine has." group:"Images"`
	MaxDecodeMemory  bytesFlag `default:"0" help:"Maximum memory in bytes for decoding images, all together. An image that needs more is refused. 0: a quarter of what the cgroup or the machine has." group:"Images"`
	MaxPixels        int64     `default:"${max_pixels}" help:"Maximum number of pixels of an image; checked before the image is decoded." group:"Images"`
	HEIC             string    `name:"heic" enum:"off,system" default:"off" help:"Decoding of HEIC images. off: they are refused; system: by the system's libheif, in a process for each image. The patents on HEVC keep torchherd from having a decoder of its own." group:"Images"`
	Compat           string    `default:"none" enum:"none,sanic" help:"sanic: behave like the Sanic demo, with its statuses and its fixed wait, without EXIF orientation, conversion of colours and palette images." group:"Images"`

	Listen         address       `default:":8000" help:"Address to listen on: host:port, :port or unix:PATH." group:"Server"`
	AdminListen    adminAddress  `default:"${admin_listen}" help:"Admin API address, unauthenticated without --admin-key-file: host:port, :port or unix:PATH; off disables it." group:"Server"`
	AdminHosts     []string      `help:"Host names by which clients may address the admin API, beside localhost, the host in --admin-listen and IP addresses." placeholder:"NAME,..." group:"Server"`
	AdminKeyFile   string        `type:"path" help:"File with a key of at least 16 characters that clients of the admin API must send: Authorization: Bearer KEY." placeholder:"FILE" group:"Server"`
	MaxConnections int           `default:"0" help:"Maximum number of connections to --listen; one more closes an idle one, or else waits. 0: as many as the limit of file descriptors allows, at most 16384." group:"Server"`
	PerAddress     int           `name:"max-connections-per-address" default:"0" help:"Maximum number of those connections from one IPv4 address or IPv6 /64; more get status 503. Proxies are one address. 0: no limit." group:"Server"`
	Require        string        `default:"all" enum:"all,any" help:"all: exit if a model can't be served. any: serve the others, and exit only if none can be." group:"Server"`
	LoadTimeout    time.Duration `default:"10m" help:"Time limit of the load of a version, after which it has failed. 0: no limit." group:"Server"`
	ForwardTimeout time.Duration `default:"0s" help:"Time limit of a batch in the model, after which the server exits with status 3, to be started again; with --isolate, only the model's process ends. 0: 20 times the slowest batch of the warm-up, and at least 30s." group:"Server"`
	Watch          bool          `help:"Load new versions as soon as their files are in place." group:"Server"`
	Settle         time.Duration `default:"1s" help:"With --watch, how long the files of a new version must be unchanged before it is loaded, so that their copy is complete." group:"Server"`
	WatchPoll      time.Duration `default:"5s" help:"With --watch, how often files are also listed, for file systems that don't report changes, such as NFS and FUSE. 0: never." group:"Server"`
	rolloutFlags

	RequestTimeout time.Duration `default:"1m" help:"Time limit of a request; clients can shorten it by X-Request-Timeout. 0: no limit." group:"Server"`
	DrainDelay     time.Duration `default:"0s" help:"On SIGTERM or Ctrl-C, how long to accept requests while /readyz returns 503, so that load balancers can notice." group:"Server"`
	DrainTimeout   time.Duration `default:"30s" help:"After --drain-delay, time limit of the requests in flight; new requests are refused." group:"Server"`
	LogFormat      string        `default:"auto" enum:"auto,json,console" help:"auto: console on a terminal, else json." group:"Server"`
	LogLevel       string        `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error." group:"Server"`

	Trial   bool `default:"true" negatable:"" help:"Load each version in a child process first, so that one that crashes or hangs can't end the server." group:"Machine"`
	Isolate bool `help:"Serve each instance of a model in a child process, whose crash costs only its batch." group:"Machine"`

	Config kong.ConfigFlag `help:"YAML file with values of flags, by their names." group:"Server" placeholder:"FILE"`
}

// logTime is how long the exit waits for a log whose reader stands still.
const logTime = 500 * time.Millisecond

// hungStatus is the exit status after a forward that never ended.
const hungStatus = 3

// Validate is called by kong, which reports its errors as usage errors.
func (s *Serve) Validate() error {
	switch {
	case s.MaxUpload == 0:
		return errors.New("--max-upload is 0: no image would be accepted; use 1 or more bytes")
	case s.MaxPixels < 1:
		return fmt.Errorf("--max-pixels is %d: no image would be accepted; use 1 or more", s.MaxPixels)
	case s.MaxConnections < 0:
		return fmt.Errorf("--max-connections is %d: use 1 or more, or 0 for the default", s.MaxConnections)
	case s.PerAddress < 0:
		return fmt.Errorf("--max-connections-per-address is %d: use 1 or more, or 0 for no limit", s.PerAddress)
	}
	_, err := s.plans()
	return err
}

// Run serves until a signal arrives.
func (s *Serve) Run(p program, values flagValues) error {
	if p.process {
		if err := setLibraries(); err != nil {
			return err
		}
	}
	log, writer, err := logging.NewLog(os.Stderr, s.LogFormat, s.LogLevel)
	if err != nil {
		return err
	}
	defer writer.Close(logTime)
	// With a handler, a pipe whose reader has gone only fails. The signal's default action would end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	cores := cpu.Cores()
	if p.process {
		runtime.GOMAXPROCS(cpu.SlotCount(cores))
		if err := memory.LimitGo(memory.Limit()); err != nil {
			return err
		}
	}
	options, err := s.options(p.version, cores, log)
	if err != nil {
		return err
	}
	options.Debug = admin.Debug{Log: writer.Tail, Settings: values}
	a, err := app.New(options)
	if err != nil {
		return err
	}
	if err := a.Start(ctx); err != nil {
		if errors.As(err, new(*app.HungError)) {
			return logExit(log, err, nil)
		}
		return err
	}
	s.announce(log, a)
	switch err := readiness.Notify(a.Ready()); {
	case errors.Is(err, syscall.EPIPE):
		log.Warn().Err(err).Msg("nobody reads the readiness descriptor")
	case err != nil:
		return errors.Join(err, s.drain(a))
	}
	for {
		select {
		case <-reload:
			go func() { _ = a.Reload() }() // the models log their errors
		case err := <-a.Failed():
			log.Error().Err(err).Msg("the server can't go on; draining")
			return logExit(log, err, s.drain(a))
		case <-ctx.Done():
			stop() // restores the default action, so a second signal ends the process
			log.Info().Msg("stopping; a second signal exits at once")
			return logExit(log, nil, s.drain(a))
		}
	}
}

// logExit logs why the server exits and what it cut off, as the last line, and returns the error that has the exit status.
func logExit(log zerolog.Logger, reason, cutOff error) error {
	if reason == nil && cutOff == nil {
		return nil
	}
	status := 1
	event := log.Error().Err(errors.Join(reason, cutOff))
	var hung *app.HungError
	if errors.As(reason, &hung) {
		status = hungStatus
		event = event.Str("model", hung.Model).Str("version", hung.Version).Int("batch", hung.BatchSize).Dur("forward_ms", hung.Elapsed)
	}
	event.Int("status", status).Msg("exiting")
	return &exitError{status: status}
}

// drain stops the server within --drain-delay and --drain-timeout.
func (s *Serve) drain(a *app.App) error {
	late := fmt.Errorf("draining took longer than %v", s.DrainTimeout)
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.DrainDelay+s.DrainTimeout, late)
	defer cancel()
	return a.Stop(ctx)
}

// options returns the server's options for these flags.
func (s *Serve) options(version string, cores int, log zerolog.Logger) (app.Options, error) {
	key, err := readKey(s.AdminKeyFile)
	if err != nil {
		return app.Options{}, err
	}
	plans, err := s.plans()
	if err != nil {
		return app.Options{}, err
	}
	o := app.Options{
		Rollout: plans, StickyHeader: s.CanaryKey,
		Models: s.Model, Listen: string(s.Listen), AdminListen: string(s.AdminListen), AdminHosts: s.AdminHosts, AdminKey: key,
		MaxConnections: s.MaxConnections, MaxConnectionsPerAddress: s.PerAddress,
		MaxUpload: int64(s.MaxUpload), MaxPixels: s.MaxPixels, HEIC: s.HEIC == "system",
		MaxReceiveMemory: int64(s.MaxReceiveMemory), MaxDecodeMemory: int64(s.MaxDecodeMemory),
		RequestTimeout: s.RequestTimeout, Sanic: s.Compat == "sanic",
		Require: lifecycle.Require(s.Require), LoadTimeout: s.LoadTimeout, ForwardTimeout: s.ForwardTimeout,
		Watch: s.Watch, Settle: s.Settle, WatchPoll: s.WatchPoll, DrainDelay: s.DrainDelay,
		PackageFolder: s.PackageFolder, Operators: s.Operators, MaxModelMemory: int64(s.MaxModelMemory), Trial: s.Trial, Isolate: s.Isolate, Override: s.override,
		CPUOnly: s.Device != nil && slices.Equal(*s.Device, settings.Devices{torch.CPU}),
		Cores:   cores, Version: version, Log: log,
	}
	if s.AdminListen == off {
		o.AdminListen = ""
	}
	return o, nil
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
	return c.Serve.options(version, cpu.Cores(), log)
}

// announce logs that the server is ready, and commands to try it.
func (s *Serve) announce(log zerolog.Logger, a *app.App) {
	curl, base := "curl", ""
	if path, isUnix := listen.UnixPath(a.Addr()); isUnix {
		curl, base = "curl --unix-socket "+path, "http://localhost/image"
	} else {
		_, port, _ := net.SplitHostPort(a.Addr())
		host, _, _ := net.SplitHostPort(string(s.Listen))
		if host == "" || strings.Contains(host, ":") || host == "0.0.0.0" {
			host = "localhost"
		}
		base = "http://" + net.JoinHostPort(host, port) + "/image"
	}
	log.Info().Int("models", len(a.Models())).Msg("ready")
	log.Info().Msg("try it: " + curl + " -T photo.jpg " + base + " -o result.jpg")
	for _, model := range a.Models()[1:] {
		log.Info().Msg("try it: " + curl + " -T photo.jpg " + base + "/" + url.PathEscape(model.Name()) + " -o result.jpg")
	}
}
