// Package app is one torchherd server: the listeners, the models and their order of starting and stopping. The command
// serve runs one in its process; tests run many.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/rs/zerolog"

	bundled "github.com/torchherd/torchherd/models"
	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/api"
	"github.com/torchherd/torchherd/server/internal/cork"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/heif"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/listen"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/logging"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/readiness"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/rollout"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Options say what a server serves and how. See the flags of serve for what each does; here are types and units.
type Options struct {
	Models []string // paths; the first model is the default. Empty: the bundled model

	Listen      string   // host:port of the images, port 0: a free one; or unix:PATH
	AdminListen string   // as Listen, of the administration; empty: none
	AdminHosts  []string // further host names by which clients may address the administration
	AdminKey    string   // that clients of the administration must send; empty: none

	MaxConnections           int // of the images' address; 0: what the limit of file descriptors allows
	MaxConnectionsPerAddress int // 0: no limit

	MaxUpload int64 // bytes of a request's body
	MaxPixels int64 // of an image as sent
	HEIC      bool  // decode HEIC by the system's libheif
	// Bytes of the bodies that are being received, and of the memory of decodes, of all requests together. 0: a part of
	// what the process may use.
	MaxReceiveMemory, MaxDecodeMemory int64
	RequestTimeout                    time.Duration // 0: no limit
	// Sanic answers as the Sanic demo does: its statuses, its fixed wait, no EXIF orientation, no conversion of colours, no palette images.
	Sanic bool

	Require     lifecycle.Require // which models must be served; empty: all
	LoadTimeout time.Duration     // of a version; 0: none
	// ForwardTimeout is how long a batch may take before the server exits or, with Isolate, ends the model's process. 0:
	// automatic; see loader.Shared.
	ForwardTimeout time.Duration

	Watch     bool          // refresh models when their files change
	Settle    time.Duration // with Watch, how long nothing may change before that
	WatchPoll time.Duration // with Watch, how often files are listed beside that; 0: never
	// Rollout says how models' new versions are compared with those that serve, by the models' names; "" is for all others.
	// Empty: new versions replace old ones at once.
	Rollout map[string]rollout.Plan
	// StickyHeader is by which header a canary knows a client; empty: by its address.
	StickyHeader string

	DrainDelay time.Duration // how long Stop lets a server that is no longer ready go on accepting images

	PackageFolder  string   // see torch.Options
	Operators      []string // libraries of operators, which New loads
	MaxModelMemory int64    // bytes; 0: no limit
	Trial          bool     // load each version in a child process first; see loader.Shared
	Isolate        bool     // serve versions in child processes
	// Override, if set, changes each version's settings last.
	Override func(*settings.Settings)
	// CPUOnly says that no model will use CUDA, so that CUDA's libraries needn't be loaded.
	CPUOnly bool

	Cores   int    // that the server may use
	Version string // of the program, for the log
	Debug   admin.Debug
	Log     zerolog.Logger
}

// An App is a server. Its life is New, Start, any number of Reload, Stop. Start and Stop are called once; the other
// methods are safe for concurrent use.
type App struct {
	options  Options
	models   lifecycle.Models
	sources  []*repository.Source
	rollouts map[string]*rollout.Controller // by the models' names
	handler  *api.Server
	failed   chan error // capacity 2: why the main listener ended, and that a forward hangs

	main, admin *http.Server
	shared      *loader.Shared
	addr        string
	adminAddr   string

	// cleanups undo what Start did; Stop calls them in reverse order.
	mu       sync.Mutex
	cleanups []func()
}

// New finds the models and checks that their files can be models. It opens no listener and loads no model.
//
// Errors: a library of operators that can't be loaded; a model that isn't there, a file that can't be a model, wrong settings, two models with one name. With
// lifecycle.Any, the second to the fourth are errors only if every model has one.
func New(o Options) (*App, error) {
	a := &App{options: o, failed: make(chan error, 2)}
	if !o.CPUOnly {
		loader.ProbeCUDA()
	}
	if err := loader.LoadOperators(o.Operators); err != nil {
		return nil, err
	}
	heic, err := o.heic()
	if err != nil {
		return nil, err
	}
	limit := memory.Limit()
	a.shared = &loader.Shared{
		Received: memory.NewBudget(cmp.Or(o.MaxReceiveMemory, limit/receiveShare)),
		Decoding: memory.NewBudget(cmp.Or(o.MaxDecodeMemory, limit/decodeShare)),
		Trimmer:  memory.NewTrimmer(),
		Metrics:  metrics.New(metrics.Build{Version: o.Version, LibTorch: torch.Version(), JPEG: torch.JPEGVersion(), Go: runtime.Version()}),
		Slots:    cpu.NewSlots(cpu.SlotCount(o.Cores)), Cores: o.Cores, Shares: cpu.NewShares(),
		MaxPixels: o.MaxPixels, RefusePalette: o.Sanic, HEIC: heic, PackageFolder: o.PackageFolder, Operators: o.Operators, MaxMemory: o.MaxModelMemory,
		Trial: o.Trial, Isolate: o.Isolate, ForwardTimeout: o.ForwardTimeout,
		Override: a.override, Log: o.Log,
	}
	models, sources, err := OpenModels(o.Models, a.shared, o.LoadTimeout, o.Require)
	if err != nil {
		return nil, err
	}
	a.models, a.sources = models, sources
	if err := a.planRollouts(); err != nil {
		return nil, err
	}
	a.handler = api.New(api.Config{
		MaxUpload: o.MaxUpload, RequestTimeout: o.RequestTimeout, Sanic: o.Sanic, Require: o.Require,
		Rollouts: a.rollouts, StickyHeader: o.StickyHeader, Metrics: a.shared.Metrics,
	}, models, o.Log)
	return a, nil
}

// heic returns what decodes HEIC; nil: nothing is to.
func (o *Options) heic() (*heif.Decoder, error) {
	if !o.HEIC {
		return nil, nil
	}
	program, err := heif.Program()
	if err != nil {
		return nil, err
	}
	decoder, err := heif.New(program)
	if err != nil {
		return nil, fmt.Errorf("can't decode HEIC: %w; or serve without --heic=system", err)
	}
	o.Log.Info().Str("libheif", decoder.Version()).Msg("HEIC is decoded by the system's libheif")
	return decoder, nil
}

// planRollouts makes a controller for each model with a plan.
func (a *App) planRollouts() error {
	a.rollouts = map[string]*rollout.Controller{}
	for name := range a.options.Rollout {
		if name == "" {
			continue
		}
		if _, err := a.models.Find(name); err != nil {
			return fmt.Errorf("can't plan a rollout: %w", err)
		}
	}
	for _, model := range a.models {
		plan, ok := a.options.Rollout[model.Name()]
		if !ok {
			plan, ok = a.options.Rollout[""]
		}
		if ok {
			a.rollouts[model.Name()] = rollout.New(model, plan, a.options.Log)
		}
	}
	return nil
}

// These parts of the memory that the process may use are for bodies that are being received, and for decodes. The rest is
// for models, forward passes and results.
const (
	receiveShare = 8
	decodeShare  = 4
)

// override changes a model's settings last: by the options, and then for the demo's sake.
func (a *App) override(to *settings.Settings) {
	if a.options.Override != nil {
		a.options.Override(to)
	}
	if a.options.Sanic {
		to.WaitPolicy, to.EXIF, to.Color, to.Grayscale = settings.Fixed, settings.Ignore, settings.IgnoreColor, settings.Refuse
	}
}

// OpenModels finds the models at these paths, or the bundled one if there are none, and checks their files without
// loading them. With lifecycle.Any it returns an error only if no model can be served; the loads of the others will report
// what is wrong with them.
func OpenModels(paths []string, shared *loader.Shared, loadTimeout time.Duration, require lifecycle.Require) (lifecycle.Models, []*repository.Source, error) {
	var sources []*repository.Source
	for _, path := range paths {
		source, err := repository.Open(path)
		if err != nil && require == lifecycle.Any {
			source, err = repository.Expect(path)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("can't serve %s: %w", path, err)
		}
		sources = append(sources, source)
	}
	if len(paths) == 0 {
		sources = append(sources, repository.InMemory(bundled.BundledName, bundled.Bundled))
	}
	var models lifecycle.Models
	var errs []error
	for _, source := range sources {
		l := loader.New(source, shared)
		cfg, err := l.Check()
		if err != nil {
			errs = append(errs, fmt.Errorf("can't serve %v: %w", source, err))
		}
		shared.Shares.Set(source.Name(), cfg.Weight)
		models = append(models, lifecycle.New(source, modelLoader{l}, loadTimeout, shared.Log))
	}
	if len(errs) == len(sources) || len(errs) > 0 && require != lifecycle.Any {
		return nil, nil, errors.Join(errs...)
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

// Start opens the listeners, loads the models and returns when all are ready. With lifecycle.Any it returns when at least
// one is ready, and the others are ready, have failed, or have been loading for loadPatience. Until a model is ready, the
// server answers its images with 503. When ctx ends first, or on any error, Start undoes what it did, within cleanUpTime.
func (a *App) Start(ctx context.Context) error {
	err := a.start(ctx)
	if err != nil {
		cleaned := make(chan struct{})
		go func() {
			a.cleanUp()
			close(cleaned)
		}()
		select {
		case <-cleaned:
		case <-time.After(cleanUpTime):
		}
	}
	return err
}

func (a *App) start(ctx context.Context) error {
	o := &a.options
	// The models close last: the requests of the connections must have ended by then.
	a.onCleanUp(a.models.Close)
	trimming, stopTrimming := context.WithCancel(context.WithoutCancel(ctx))
	a.onCleanUp(stopTrimming)
	go a.shared.Trimmer.Run(trimming)
	images, administration := a.limits()
	listener, err := openListener(ctx, o.Listen, images)
	if err != nil {
		return fmt.Errorf("%w; choose another address by --listen", err)
	}
	a.main = a.newHTTPServer(a.handler, listener)
	if o.RequestTimeout > 0 {
		a.main.WriteTimeout = o.RequestTimeout + timeToRead
	}
	a.addr = listen.Address(listener)
	go func() { a.failed <- a.main.Serve(cork.Listener(listener)) }()
	a.onCleanUp(func() {
		listener.Stop()
		_ = a.main.Close()
	})
	o.Log.Info().Str("version", o.Version).Str("libtorch", torch.Version()).Str("address", a.addr).Msg("listening; loading the models")

	a.startRollouts(ctx)
	if err := a.startAdmin(ctx, administration); err != nil {
		return err
	}
	if err := a.startWatching(); err != nil { //nolint:contextcheck // loads have the model's context, which Close ends
		return err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	a.onCleanUp(stop)
	go a.watchForwards(watching)
	return a.loadModels(ctx)
}

// startRollouts follows the models' candidates until the cleanup.
func (a *App) startRollouts(ctx context.Context) {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var ended sync.WaitGroup
	a.onCleanUp(func() {
		stop()
		ended.Wait()
	})
	for _, each := range a.rollouts {
		ended.Go(func() { each.Run(following) })
	}
}

// leastLinger is the least number of bytes that are read from a client whose request was refused; see package listen. It is
// enough for photographs beyond the default limit of an upload.
const leastLinger = 16 << 20

// limits returns the limits of the connections for the images and for the administration.
func (a *App) limits() (images, administration listen.Limits) {
	o := &a.options
	linger := max(2*o.MaxUpload, leastLinger)
	images, administration = listen.Limits{LingerBytes: linger}, listen.Limits{LingerBytes: linger}
	images.Connections, administration.Connections = listen.DefaultConnections()
	if o.MaxConnections > 0 {
		images.Connections = o.MaxConnections
	}
	images.PerAddress = o.MaxConnectionsPerAddress
	return images, administration
}

func openListener(ctx context.Context, address string, limits listen.Limits) (*listen.Listener, error) {
	inner, err := listen.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	return listen.New(inner, limits), nil
}

// newHTTPServer returns a server for the connections of a listener, with or without cork's.
func (a *App) newHTTPServer(handler http.Handler, listener *listen.Listener) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		DisableGeneralOptionsHandler: true, // net/http would answer "OPTIONS *" by 200, ready or not
		ConnState:                    listener.ConnState,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return cork.Context(listen.Context(ctx, c), c)
		},
		ErrorLog: logging.ErrorLog(a.options.Log),
	}
}

func (a *App) startAdmin(ctx context.Context, limits listen.Limits) error {
	o := &a.options
	if o.AdminListen == "" {
		return nil
	}
	listener, err := openListener(ctx, o.AdminListen, limits)
	if err != nil {
		return fmt.Errorf("%w; choose another address by --admin-listen, or none by --admin-listen=off", err)
	}
	a.adminAddr = listen.Address(listener)
	handler := admin.New(admin.Config{
		Models: a.models, Rollouts: a.rollouts, Metrics: a.shared.Metrics, InFlight: a.handler.InFlight,
		Received: a.shared.Received, Decoding: a.shared.Decoding, Listen: o.AdminListen, Hosts: o.AdminHosts, Key: o.AdminKey, Debug: o.Debug, Log: o.Log,
	})
	a.admin = a.newHTTPServer(handler, listener)
	a.admin.ReadTimeout, a.admin.WriteTimeout = admin.ReadTimeout, admin.WriteTimeout
	go func() { _ = a.admin.Serve(listener) }()
	a.onCleanUp(func() {
		listener.Stop()
		_ = a.admin.Close()
	})
	o.Log.Info().Str("address", a.adminAddr).Msg("administration listening")
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
		// In a goroutine, since a later change may have to end the load of an earlier one.
		err := source.Watch(ctx, repository.WatchOptions{Settle: a.options.Settle, Poll: a.options.WatchPoll}, func() { go func() { _ = a.models[i].Refresh() }() }) // which logs its errors
		if err != nil && a.options.Require == lifecycle.Any {
			a.options.Log.Warn().Err(err).Str("model", source.Name()).Msg("can't watch the model's files")
			continue
		}
		if err != nil {
			return fmt.Errorf("can't watch %v: %w", source, err)
		}
	}
	return nil
}

// Addr is the address of the images, host:port or unix:PATH, after Start.
func (a *App) Addr() string { return a.addr }

// AdminAddr is the address of the administration, host:port or unix:PATH, after Start; empty: none.
func (a *App) AdminAddr() string { return a.adminAddr }

// Failed receives the error by which the main listener ended, or a *HungError. The caller should call Stop then.
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
