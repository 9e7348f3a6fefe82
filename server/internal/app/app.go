// Package app is one torchherd server: the listeners, the models and their order of starting and stopping. The command
// serve runs one in its process; tests run many.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"

	bundled "github.com/torchherd/torchherd/models"
	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/api"
	"github.com/torchherd/torchherd/server/internal/cork"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/readiness"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Options say what a server serves and how. See the flags of serve for what each does; here are types and units.
type Options struct {
	Models []string // paths; the first model is the default. Empty: the bundled model

	Listen      string // host:port of the images; port 0: a free one
	AdminListen string // host:port of the administration; empty: none

	MaxUpload      int64         // bytes of a request's body
	MaxPixels      int64         // of an image as sent
	RequestTimeout time.Duration // 0: no limit
	// Sanic answers as the Sanic demo does: its statuses, its fixed wait, no EXIF orientation, no palette images.
	Sanic bool

	Watch      bool          // refresh models when their files change
	Settle     time.Duration // with Watch, how long nothing may change before that
	DrainDelay time.Duration // how long Stop lets a server that is no longer ready go on accepting images

	PackageFolder  string        // see torch.Options
	MaxModelMemory int64         // bytes; 0: no limit
	Trial          bool          // load each version in a child process first; see loader.Shared
	Isolate        bool          // serve versions in child processes
	ForwardTimeout time.Duration // see loader.Shared
	// Override, if set, changes each version's settings last.
	Override func(*settings.Settings)
	// CPUOnly says that no model will use CUDA, so that CUDA's libraries needn't be loaded.
	CPUOnly bool

	Cores   int    // that the server may use
	Version string // of the program, for the log
	Log     zerolog.Logger
}

// An App is a server. Its life is New, Start, any number of Reload, Stop. Start and Stop are called once; the other
// methods are safe for concurrent use.
type App struct {
	options Options
	models  lifecycle.Models
	sources []*repository.Source
	handler *api.Server
	failed  chan error // capacity 1: why the main listener ended

	main, admin *http.Server
	addr        string
	adminAddr   string

	// cleanups undo what Start did; Stop calls them in reverse order.
	mu       sync.Mutex
	cleanups []func()
}

// New finds the models and checks that their files can be models. It opens no listener and loads nothing.
//
// Errors: a model that isn't there, a file that can't be a model, wrong settings, two models with one name.
func New(o Options) (*App, error) {
	a := &App{options: o, failed: make(chan error, 1)}
	if !o.CPUOnly {
		loader.ProbeCUDA()
	}
	shared := &loader.Shared{
		Slots: cpu.NewSlots(cpu.SlotCount(o.Cores)), Cores: o.Cores, Shares: cpu.NewShares(),
		MaxPixels: o.MaxPixels, RefusePalette: o.Sanic, PackageFolder: o.PackageFolder, MaxMemory: o.MaxModelMemory,
		Trial: o.Trial, Isolate: o.Isolate, ForwardTimeout: o.ForwardTimeout,
		Override: a.override, Log: o.Log,
	}
	models, sources, err := OpenModels(o.Models, shared)
	if err != nil {
		return nil, err
	}
	a.models, a.sources = models, sources
	a.handler = api.New(api.Config{MaxUpload: o.MaxUpload, RequestTimeout: o.RequestTimeout, Sanic: o.Sanic}, models, o.Log)
	return a, nil
}

// override changes a model's settings last: by the options, and then for the demo's sake.
func (a *App) override(to *settings.Settings) {
	if a.options.Override != nil {
		a.options.Override(to)
	}
	if a.options.Sanic {
		to.WaitPolicy, to.EXIF, to.Grayscale = settings.Fixed, settings.Ignore, settings.Refuse
	}
}

// OpenModels finds the models at these paths, or the bundled one if there are none, and checks their files without
// loading them.
func OpenModels(paths []string, shared *loader.Shared) (lifecycle.Models, []*repository.Source, error) {
	var sources []*repository.Source
	for _, path := range paths {
		source, err := repository.Open(path)
		if err != nil {
			return nil, nil, fmt.Errorf("can't serve %s: %w", path, err)
		}
		sources = append(sources, source)
	}
	if len(paths) == 0 {
		sources = append(sources, repository.InMemory(bundled.BundledName, bundled.Bundled))
	}
	var models lifecycle.Models
	for _, source := range sources {
		l := loader.New(source, shared)
		if err := l.Check(); err != nil {
			return nil, nil, fmt.Errorf("can't serve %v: %w", source, err)
		}
		shared.Shares.Set(source.Name(), l.ConfiguredWeight())
		models = append(models, lifecycle.New(source, modelLoader{l}, shared.Log))
	}
	return models, sources, models.Validate()
}

// modelLoader is a loader.Loader as lifecycle wants it.
type modelLoader struct{ *loader.Loader }

func (l modelLoader) Load(ctx context.Context, r loader.Request) (lifecycle.Servable, error) {
	loaded, err := l.Loader.Load(ctx, r)
	if err != nil {
		return nil, err // not a nil *loader.Loaded in the interface
	}
	return loaded, nil
}

// timeToRead is the least time that a client has to read its response, when the request took all of its own time.
const timeToRead = 30 * time.Second

// Start opens the listeners, loads the models and returns when all are ready. Until then the server answers images with
// 503. When ctx ends first, or on any error, it undoes what it did.
func (a *App) Start(ctx context.Context) error {
	err := a.start(ctx)
	if err != nil {
		a.cleanUp()
	}
	return err
}

func (a *App) start(ctx context.Context) error {
	o := &a.options
	// The models close last: the requests of the connections must have ended by then.
	a.onCleanUp(a.models.Close)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("%w; choose another address by --listen", err)
	}
	a.main = newHTTPServer(a.handler)
	a.main.ConnContext = cork.Context
	if o.RequestTimeout > 0 {
		a.main.WriteTimeout = o.RequestTimeout + timeToRead
	}
	a.addr = listener.Addr().String()
	go func() { a.failed <- a.main.Serve(cork.Listener(listener)) }()
	a.onCleanUp(func() { _ = a.main.Close() })
	o.Log.Info().Str("version", o.Version).Str("libtorch", torch.Version()).Str("address", a.addr).Msg("listening; loading the models")

	if err := a.startAdmin(ctx); err != nil {
		return err
	}
	if err := a.startWatching(); err != nil { //nolint:contextcheck // loads have the model's context, which Close ends
		return err
	}
	return a.loadModels(ctx)
}

func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
}

func (a *App) startAdmin(ctx context.Context) error {
	if a.options.AdminListen == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.options.AdminListen)
	if err != nil {
		return fmt.Errorf("%w; choose another address by --admin-listen, or none by --admin-listen=off", err)
	}
	a.admin = newHTTPServer(admin.New(a.models, a.options.Log))
	a.adminAddr = listener.Addr().String()
	go func() { _ = a.admin.Serve(listener) }()
	a.onCleanUp(func() { _ = a.admin.Close() })
	a.options.Log.Info().Str("address", a.adminAddr).Msg("administration listening")
	return nil
}

// startWatching refreshes models when their files change, until the cleanup.
func (a *App) startWatching() error {
	if !a.options.Watch {
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	a.onCleanUp(stop)
	for i, source := range a.sources {
		err := source.Watch(ctx, a.options.Settle, func() { _ = a.models[i].Refresh() }) // which logs its errors
		if err != nil {
			return fmt.Errorf("can't watch %v: %w", source, err)
		}
	}
	return nil
}

// loadModels loads the models, one after the other.
func (a *App) loadModels(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { //nolint:contextcheck // loads have the model's context, which Close ends
		for i, model := range a.models {
			// An error beside a ready version is a newer version's. It has been logged.
			if err := model.Reload(); !model.Ready() {
				done <- fmt.Errorf("can't serve %v: %w", a.sources[i], err)
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		return err
	case err := <-a.failed:
		return err
	case <-ctx.Done():
		return errors.New("stopped while the models were loading")
	}
}

// Addr is the address of the images, host:port, after Start.
func (a *App) Addr() string { return a.addr }

// AdminAddr is the address of the administration, host:port, after Start; empty: none.
func (a *App) AdminAddr() string { return a.adminAddr }

// Failed receives the error by which the main listener ended.
func (a *App) Failed() <-chan error { return a.failed }

// Models are the models, the default first.
func (a *App) Models() lifecycle.Models { return a.models }

// Ready describes the server as it is once Start has returned.
func (a *App) Ready() readiness.Report {
	report := readiness.Report{Address: a.addr, AdminAddress: a.adminAddr}
	for _, model := range a.models {
		for _, v := range model.ReadyVersions() {
			report.Models = append(report.Models, readiness.Model{
				Name: model.Name(), Version: v.Version, Device: v.Devices, Instances: v.Instances, Threads: v.Threads,
				Precision: v.Precision.String(),
			})
		}
	}
	return report
}

// Reload makes all models look for new versions, and returns when those are ready or have failed. The error joins those of
// the models.
func (a *App) Reload() error {
	a.options.Log.Info().Msg("looking for new versions")
	errs := make([]error, len(a.models))
	var wg sync.WaitGroup
	for i, model := range a.models {
		wg.Go(func() { errs[i] = model.Reload() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stop makes the server unready, goes on for Options.DrainDelay, refuses new images, and returns when the accepted ones
// have been answered and everything is closed. When ctx ends before, requests are cut off and Stop returns an error.
func (a *App) Stop(ctx context.Context) error {
	defer a.cleanUp()
	log := a.options.Log
	a.handler.Unready()
	if delay := a.options.DrainDelay; delay > 0 {
		log.Info().Dur("delay_ms", delay).Msg("stopping: not ready any more, still accepting images")
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	log.Info().Msg("draining: accepting no new images")
	if err := a.handler.Drain(ctx); err != nil {
		return fmt.Errorf("requests were cut off: %w", err)
	}
	if err := a.main.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	log.Info().Msg("drained")
	return nil
}

func (a *App) onCleanUp(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cleanups = append(a.cleanups, f)
}

// cleanUp calls the cleanups, the last one first, each once.
func (a *App) cleanUp() {
	a.mu.Lock()
	cleanups := a.cleanups
	a.cleanups = nil
	a.mu.Unlock()
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
}
