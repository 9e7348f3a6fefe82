package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/models"
	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/api"
	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/cork"
	"github.com/torchherd/torchherd/server/internal/model"
	"github.com/torchherd/torchherd/server/internal/picture"
	"github.com/torchherd/torchherd/server/internal/telemetry"
	"github.com/torchherd/torchherd/torch"
)

// Serve is the subcommand serve. The defaults of the first group are the constants of the Sanic demo.
type Serve struct {
	Model string `arg:"" optional:"" help:"Model to serve: TorchScript (.pt) or an AOTInductor package (.pt2). Without it, the bundled model."`

	MaxBatchSize int           `default:"2" help:"Pictures in a batch at most (the demo's MAX_BATCH_SIZE)." group:"Batching"`
	MaxQueueSize int           `default:"3" help:"Pictures waiting at most; more are refused (MAX_QUEUE_SIZE)." group:"Batching"`
	MaxWait      time.Duration `default:"1s" help:"How long a picture waits for company at most (MAX_WAIT)." group:"Batching"`
	WaitPolicy   string        `default:"adaptive" enum:"adaptive,fixed" help:"adaptive: wait only while another picture is on its way; fixed: always wait, as the demo does." group:"Batching"`

	MaxUpload bytesFlag `default:"4MiB" help:"Bytes of a request's body at most (MAX_SIZE)." group:"Pictures"`
	MaxPixels int64     `default:"${max_pixels}" help:"Pixels of a picture at most; checked before memory is taken." group:"Pictures"`
	Size      *sizeFlag `help:"Size that pictures are resized to; keep: each at its own. By default what the model's file says, else 228x228." placeholder:"WIDTHxHEIGHT" group:"Pictures"`
	Quality   int       `default:"${quality}" help:"Quality of JPEG answers, 1 to 100." group:"Pictures"`
	JPEGScale bool      `name:"jpeg-scale" help:"Decode JPEGs that are at least twice as large as --size at 1/2, 1/4 or 1/8 of their size: faster, and not the same pixels." group:"Pictures"`
	Compat    string    `default:"none" enum:"none,sanic" help:"sanic: in the demo's manner: its statuses, its fixed wait, no EXIF turns, no palette pictures." group:"Pictures"`

	Device        string `default:"auto" help:"cpu, cuda:N or auto (cuda:0 where there is one, else cpu)." group:"Machine"`
	Precision     string `default:"fp32" enum:"fp32,tf32,bf16,fp16" help:"What a TorchScript model computes in: fp32, bf16, or on CUDA also tf32 and fp16." group:"Machine"`
	Instances     int    `default:"1" help:"Copies of the model that run batches side by side." group:"Machine"`
	Threads       int    `default:"0" help:"Threads that a forward may use; 0: the cores that this process may use, shared by the instances, or 1 for a small model." group:"Machine"`
	CUDAGraphs    bool   `name:"cuda-graphs" help:"On CUDA, replay each batch size as a CUDA graph." group:"Machine"`
	PackageFolder string `type:"path" help:"Where a .pt2 is unpacked, in a folder that is removed again; by default the system's for temporary files." placeholder:"FOLDER" group:"Machine"`

	Listen         string        `default:":8000" help:"Address to listen on." group:"Server"`
	AdminListen    string        `default:"${admin_listen}" help:"Address of the administration, which asks nobody who they are; off: none." group:"Server"`
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
	log, err := telemetry.NewLog(os.Stderr, s.LogFormat, s.LogLevel)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	if s.MaxQueueSize < s.MaxBatchSize {
		log.Warn().Int("max_queue_size", s.MaxQueueSize).Int("max_batch_size", s.MaxBatchSize).Msg("the queue is smaller than a batch, so no batch can fill")
	}
	options, err := s.options()
	if err != nil {
		return err
	}
	cores := runtime.GOMAXPROCS(0) // affinity and cgroup limits included
	workers := workersFor(cores)
	if p.process {
		runtime.GOMAXPROCS(workers)
	}
	prepare := s.preparer(options, cores, picture.NewWorkers(workers), log)
	served := model.NewServed(s.name(), prepare, log)
	defer served.Close() // after the connections have been closed: what they brought must have ended
	handler := api.New(api.Config{MaxUpload: int64(s.MaxUpload), RequestTimeout: s.RequestTimeout, Sanic: s.sanic()}, served, log)
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

	if err := s.administrate(ctx, served, log); err != nil {
		return err
	}

	version, err := s.load(ctx, served)
	if err != nil {
		return err
	}
	s.announce(log, version, listener.Addr())

	for {
		select {
		case <-reload:
			log.Info().Msg("loading the model's file anew")
			go func() { _, _ = served.Load() }() // which tells the log what came of it
			continue
		case err := <-failed:
			return err
		case <-ctx.Done():
		}
		stop() // puts the default action back, so that a second signal ends the process
		return s.drain(log, handler, server)
	}
}

// administrate opens the address of the administration, for as long as the process lives.
func (s *Serve) administrate(ctx context.Context, served *model.Served, log zerolog.Logger) error {
	if s.AdminListen == "off" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.AdminListen)
	if err != nil {
		return fmt.Errorf("%w; choose another address by --admin-listen, or none by --admin-listen=off", err)
	}
	server := &http.Server{Handler: admin.New(served, log), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	go func() { _ = server.Serve(listener) }()
	log.Info().Str("address", listener.Addr().String()).Msg("the administration is listening")
	return nil
}

// load reads and warms the model. A signal ends it: there is nobody to answer yet.
func (s *Serve) load(ctx context.Context, served *model.Served) (*model.Version, error) {
	type loaded struct {
		version *model.Version
		err     error
	}
	done := make(chan loaded, 1)
	go func() {
		v, err := served.Load()
		done <- loaded{v, err}
	}()
	select {
	case l := <-done:
		if l.err != nil {
			return nil, fmt.Errorf("can't serve %s: %w", s.modelName(), l.err)
		}
		return l.version, nil
	case <-ctx.Done():
		return nil, errors.New("stopped while the model was being loaded")
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

// device is the device to serve on.
func (s *Serve) device() (torch.Device, error) {
	if s.Device != "auto" {
		device, err := torch.NewDevice(s.Device)
		if err != nil {
			return device, err
		}
		return device, device.Available()
	}
	cuda, err := torch.NewDevice("cuda:0")
	if err == nil && cuda.Available() == nil {
		return cuda, nil
	}
	return torch.CPU, nil
}

// workersFor is how many pictures are decoded or encoded at a time, and how many goroutines Go runs at a time: a quarter
// more than there are cores, one more at least. A goroutine that comes back from C waits until Go can run it, and keeps
// its worker's place meanwhile; with no more of them than cores, a core is idle for that time. (With two cores, three of
// each answered 12 % more pictures of 590x480 than two of each, at 16 clients and a model that negates.)
func workersFor(cores int) int { return cores + max(1, cores/4) }

// options are how the model is loaded.
func (s *Serve) options() (torch.Options, error) {
	device, err := s.device()
	if err != nil {
		return torch.Options{}, err
	}
	precision, err := torch.NewPrecision(s.Precision)
	return torch.Options{Device: device, Precision: precision, CUDAGraphs: s.CUDAGraphs, PackageFolder: s.PackageFolder}, err
}

// size is the size that pictures are resized to: the flag's, else the model file's, else the demo's.
func (s *Serve) size() (sizeFlag, error) {
	settings, err := model.ReadSettings(s.Model, models.Bundled)
	if err != nil || s.Size == nil && settings.Size == "" {
		return sizeFlag{228, 228}, err
	}
	if s.Size != nil {
		return *s.Size, nil
	}
	var size sizeFlag
	return size, size.UnmarshalText([]byte(settings.Size))
}

// preparer returns the function that tells, for each load, what to load and how: by the flags and by what the model's
// file says at that time.
func (s *Serve) preparer(options torch.Options, cores int, workers *picture.Workers, log zerolog.Logger) func() (model.Config, error) {
	return func() (model.Config, error) {
		size, err := s.size()
		if err != nil {
			return model.Config{}, err
		}
		codec, err := picture.NewCodec(picture.Config{
			Workers: workers, MaxPixels: s.MaxPixels, Width: size.width, Height: size.height,
			Quality: s.Quality, ScaledDecode: s.JPEGScale, KeepOrientation: s.sanic(), RefusePalette: s.sanic(),
		})
		return s.modelConfig(options, cores, size, codec, log), err
	}
}

func (s *Serve) modelConfig(options torch.Options, cores int, size sizeFlag, codec *picture.Codec, log zerolog.Logger) model.Config {
	c := model.Config{
		Path: s.Model, Content: models.Bundled, Options: options, Instances: s.Instances, Threads: s.Threads, Cores: cores,
		MaxBatchSize: s.MaxBatchSize, MaxQueueSize: s.MaxQueueSize, MaxWait: s.MaxWait, WaitPolicy: batch.Adaptive,
		WarmUpWidth: size.width, WarmUpHeight: size.height,
		Codec: codec, Log: log,
	}
	if s.WaitPolicy == "fixed" || s.sanic() {
		c.WaitPolicy = batch.Fixed
	}
	if size == (sizeFlag{}) {
		c.AnySize, c.WarmUpWidth, c.WarmUpHeight = true, 256, 256
	}
	return c
}

// name is what the model is called: as its file, without the ending.
func (s *Serve) name() string {
	if s.Model == "" {
		return models.BundledName
	}
	file := filepath.Base(s.Model)
	return strings.TrimSuffix(file, filepath.Ext(file))
}

// modelName is the model in a sentence.
func (s *Serve) modelName() string {
	if s.Model == "" {
		return "the bundled model"
	}
	return s.Model
}

// announce says that the server is ready, and how to try it.
func (s *Serve) announce(log zerolog.Logger, served *model.Version, address net.Addr) {
	if err := served.WarmUp().Err; err != nil {
		log.Warn().Err(err).Msg("the warm-up failed; pictures of another size may work")
	}
	_, port, _ := net.SplitHostPort(address.String())
	host, _, _ := net.SplitHostPort(s.Listen)
	if host == "" || strings.Contains(host, ":") || host == "0.0.0.0" {
		host = "localhost"
	}
	url := "http://" + net.JoinHostPort(host, port) + "/image"
	info := served.Info()
	log.Info().Str("model", s.modelName()).Int64("parameters", info.Parameters).Str("size", served.Size()).Stringer("device", info.Device).
		Stringer("precision", info.Precision).Int("instances", s.Instances).Int("threads", served.Threads()).
		Dur("warm_up_ms", served.WarmUp().Took.Round(time.Millisecond)).Msg("ready")
	log.Info().Msg("try it: curl -T photo.jpg " + url + " -o answer.jpg")
}
