package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
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

	bundled "github.com/torchherd/torchherd/models"
	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/api"
	"github.com/torchherd/torchherd/server/internal/cork"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/logging"
	"github.com/torchherd/torchherd/server/internal/model"
	"github.com/torchherd/torchherd/server/internal/readiness"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Serve is the subcommand serve. The defaults of the first group are the constants of the Sanic demo.
type Serve struct {
	Model []string `arg:"" optional:"" help:"Models to serve, the first of them at /image, each at /image/NAME: TorchScript (.pt), AOTInductor packages (.pt2) or folders with versions. Without any, the bundled model."`

	modelFlags
	sharedFlags

	MaxUpload bytesFlag `default:"4MiB" help:"Bytes of a request's body at most (MAX_SIZE)." group:"Images"`
	MaxPixels int64     `default:"${max_pixels}" help:"Pixels of a picture at most; checked before memory is taken." group:"Images"`
	Compat    string    `default:"none" enum:"none,sanic" help:"sanic: in the demo's manner: its statuses, its fixed wait, no EXIF turns, no palette pictures." group:"Images"`

	Listen         string        `default:":8000" help:"Address to listen on." group:"Server"`
	AdminListen    string        `default:"${admin_listen}" help:"Address of the administration, which asks nobody who they are; off: none." group:"Server"`
	Watch          bool          `help:"Load new versions as soon as their files are in place." group:"Server"`
	Settle         time.Duration `default:"1s" help:"With --watch, how long nothing may change there before it is loaded, so that no half-copied file is." group:"Server"`
	RequestTimeout time.Duration `default:"1m" help:"Time limit of a request; a client can shorten it by X-Request-Timeout. 0: none." group:"Server"`
	DrainDelay     time.Duration `default:"0s" help:"On SIGTERM or Ctrl-C, how long to go on as before, but with /readyz at 503, so that load balancers notice." group:"Server"`
	DrainTimeout   time.Duration `default:"30s" help:"Then, how long accepted requests may take, while new ones are refused." group:"Server"`
	LogFormat      string        `default:"auto" enum:"auto,json,console" help:"auto: console on a terminal, else json." group:"Server"`
	LogLevel       string        `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error." group:"Server"`

	Config kong.ConfigFlag `help:"YAML file with settings, named as the flags." group:"Server" placeholder:"FILE"`
}

// timeToRead is what a client has at least to read its answer, when the request took all of its own time.
const timeToRead = 30 * time.Second

// Run serves until a signal comes.
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

	cores := runtime.GOMAXPROCS(0) // affinity and cgroup limits included
	workers := workersFor(cores)
	if p.process {
		runtime.GOMAXPROCS(workers)
	}
	s.findCUDA()
	models, err := openModels(s.Model, s.host(cores, workers, log))
	if err != nil {
		return err
	}
	defer models.Close() // after the connections have been closed: what they brought must have ended
	handler := api.New(api.Config{MaxUpload: int64(s.MaxUpload), RequestTimeout: s.RequestTimeout, Sanic: s.sanic()}, models, log)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("%w; choose another address by --listen", err)
	}
	server := &http.Server{Handler: handler, ConnContext: cork.Context, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	if s.RequestTimeout > 0 {
		server.WriteTimeout = s.RequestTimeout + timeToRead
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(cork.Listener(listener)) }()
	defer func() { _ = server.Close() }()
	log.Info().Str("version", p.version).Str("libtorch", torch.Version()).Str("address", listener.Addr().String()).Msg("listening; loading the model")

	adminAddress, err := s.administrate(ctx, models, log)
	if err != nil {
		return err
	}
	if err := s.watch(ctx, models); err != nil {
		return err
	}
	if err := loadModels(ctx, models); err != nil {
		return err
	}
	if err := readiness.Notify(report(models, listener.Addr().String(), adminAddress)); err != nil {
		return err
	}
	s.announce(log, models, listener.Addr())

	for {
		select {
		case <-reload:
			log.Info().Msg("looking for new versions")
			for _, served := range models {
				go func() { _ = served.Load() }() // which tells the log what came of it
			}
			continue
		case err := <-failed:
			return err
		case <-ctx.Done():
		}
		stop() // puts the default action back, so that a second signal ends the process
		return s.drain(log, handler, server)
	}
}

// administrate opens the address of the administration, for as long as the process lives, and returns it.
func (s *Serve) administrate(ctx context.Context, models model.Models, log zerolog.Logger) (string, error) {
	if s.AdminListen == "off" {
		return "", nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.AdminListen)
	if err != nil {
		return "", fmt.Errorf("%w; choose another address by --admin-listen, or none by --admin-listen=off", err)
	}
	server := &http.Server{Handler: admin.New(models, log), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	go func() { _ = server.Serve(listener) }()
	log.Info().Str("address", listener.Addr().String()).Msg("the administration is listening")
	return listener.Addr().String(), nil
}

// report describes the server for readiness.Notify.
func report(models model.Models, address, adminAddress string) readiness.Report {
	r := readiness.Report{Address: address, AdminAddress: adminAddress}
	for _, served := range models {
		version, err := served.Acquire()
		if err != nil { // unloaded meanwhile
			continue
		}
		r.Models = append(r.Models, readiness.Model{
			Name: served.Name(), Version: version.String(), Device: version.Devices(), Instances: version.Instances(),
			Threads: version.Threads(), Precision: version.Info().Precision.String(),
		})
		version.Release()
	}
	return r
}

// openModels finds the models at these paths, or the bundled one.
func openModels(paths []string, host *model.Host) (model.Models, error) {
	if len(paths) == 0 {
		return model.Models{model.NewServed(repository.InMemory(bundled.BundledName, bundled.Bundled), host)}, nil
	}
	models := make(model.Models, len(paths))
	for i, path := range paths {
		source, err := repository.Open(path)
		if err != nil {
			return nil, fmt.Errorf("can't serve %s: %w", path, err)
		}
		models[i] = model.NewServed(source, host)
	}
	return models, models.Validate()
}

// watch loads new versions as they come, for as long as the process lives.
func (s *Serve) watch(ctx context.Context, models model.Models) error {
	if !s.Watch {
		return nil
	}
	for _, served := range models {
		err := served.Source().Watch(ctx, s.Settle, func() { _ = served.Refresh() }) // which tells the log what came of it
		if err != nil {
			return fmt.Errorf("can't watch %v: %w", served.Source(), err)
		}
	}
	return nil
}

// loadModels loads the models. A signal ends it: there is nobody to answer yet.
func loadModels(ctx context.Context, models model.Models) error {
	done := make(chan error, 1)
	go func() {
		for _, served := range models {
			// An error beside a version that is ready is one of a newer version, of which the log tells.
			if err := served.Load(); !served.Ready() {
				done <- fmt.Errorf("can't serve %v: %w", served.Source(), err)
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New("stopped while the model was being loaded")
	}
}

// drain ends the serving in order: readiness falls, new pictures are refused, accepted ones answered, and only then
// nobody listens any more.
func (s *Serve) drain(log zerolog.Logger, handler *api.Server, server *http.Server) error {
	handler.Unready()
	if s.DrainDelay > 0 {
		log.Info().Dur("delay_ms", s.DrainDelay).Msg("about to stop: not ready any more; a second signal exits at once")
		time.Sleep(s.DrainDelay)
	}
	log.Info().Msg("draining: no new pictures; a second signal exits at once")
	ctx, cancel := context.WithTimeout(context.Background(), s.DrainTimeout)
	defer cancel()
	if err := handler.Drain(ctx); err != nil {
		return fmt.Errorf("draining took longer than %v; requests were cut off", s.DrainTimeout)
	}
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	log.Info().Msg("drained")
	return nil
}

func (s *Serve) sanic() bool { return s.Compat == "sanic" }

// findCUDA makes LibTorch look for CUDA, which it does once, before the first module is loaded: a model on the CPU may be
// first. What is missing, the load of a model tells that wants it.
func (s *Serve) findCUDA() {
	if s.Device != nil && slices.Equal(*s.Device, settings.Devices{torch.CPU}) {
		return
	}
	if cuda, err := torch.NewDevice("cuda:0"); err == nil {
		_ = cuda.Available()
	}
}

// workersFor is how many pictures are decoded or encoded at a time, and how many goroutines Go runs at a time: a quarter
// more than there are cores, one more at least. A goroutine that comes back from C waits until Go can run it, and keeps
// its worker's place meanwhile; with no more of them than cores, a core is idle for that time. (With two cores, three of
// each answered 12 % more pictures of 590x480 than two of each, at 16 clients and a model that negates.)
func workersFor(cores int) int { return cores + max(1, cores/4) }

// host is what the models have in common.
func (s *Serve) host(cores, workers int, log zerolog.Logger) *model.Host {
	return &model.Host{
		Slots: cpu.NewSlots(workers), Cores: cores, Shares: cpu.NewShares(),
		MaxPixels: s.MaxPixels, RefusePalette: s.sanic(), PackageFolder: s.PackageFolder, MaxMemory: int64(s.MaxModelMemory),
		Override: s.override, Log: log,
	}
}

// override has the last word on a model's settings: the flags', and the demo's manner.
func (s *Serve) override(to *settings.Settings) {
	s.modelFlags.override(to)
	if s.sanic() {
		to.WaitPolicy, to.EXIF, to.Grayscale = settings.Fixed, settings.Ignore, settings.Refuse
	}
}

// announce says that the server is ready, and how to try it.
func (s *Serve) announce(log zerolog.Logger, models model.Models, address net.Addr) {
	_, port, _ := net.SplitHostPort(address.String())
	host, _, _ := net.SplitHostPort(s.Listen)
	if host == "" || strings.Contains(host, ":") || host == "0.0.0.0" {
		host = "localhost"
	}
	base := "http://" + net.JoinHostPort(host, port) + "/image"
	log.Info().Int("models", len(models)).Msg("ready")
	log.Info().Msg("try it: curl -T photo.jpg " + base + " -o answer.jpg")
	for _, served := range models[1:] {
		log.Info().Msg("try it: curl -T photo.jpg " + base + "/" + url.PathEscape(served.Name()) + " -o answer.jpg")
	}
}
