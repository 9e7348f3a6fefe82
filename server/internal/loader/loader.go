// Package loader makes a servable from a model's file and settings: it reads the file, checks the model, chooses how many
// threads a forward may use, warms the model up and, if asked, times it. It does so in this process, or in child processes.
package loader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/heif"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Shared is what all models of a process have in common.
type Shared struct {
	Slots  *cpu.Slots // for decoding and encoding
	Cores  int        // that the process may use
	Shares *cpu.Shares

	MaxPixels     int64         // of an image as sent
	RefusePalette bool          // answer palette images with imagecodec.NotRGB
	HEIC          *heif.Decoder // nil: HEIC is refused
	PackageFolder string        // see torch.Options
	// Operators are libraries that LoadOperators has loaded in this process, for the child processes.
	Operators []string
	// MaxMemory bounds the weights of a version's instances together, in bytes. 0: no limit.
	MaxMemory int64
	// Trial loads each version in a child process first, which ends in its place if it crashes, hangs or takes too much
	// memory. Isolate serves versions in such processes, one for each instance, so that a trial isn't needed. Both need
	// isolation.Supported, and a program that calls isolation.Main.
	Trial, Isolate bool
	// See servable.Config.
	Received, Decoding *memory.Budget
	Trimmer            *memory.Trimmer
	Metrics            *metrics.Metrics // nil: none
	// ForwardTimeout is how long a batch may take before it counts as hung. 0: 20 times as long as the slowest batch of the
	// warm-up, and at least 30 seconds.
	ForwardTimeout time.Duration
	// TimedRuns is how often each batch size is timed after the warm-up. 0: not at all.
	TimedRuns int
	// Override, if set, changes each version's settings last.
	Override func(*settings.Settings)

	Log zerolog.Logger

	lacking sync.Once // the log has what child processes' restrictions lack
}

// A Loader loads the versions of one model.
type Loader struct {
	source *repository.Source
	shared *Shared
}

// New returns a Loader for the model at source.
func New(source *repository.Source, shared *Shared) *Loader { return &Loader{source, shared} }

// Request says which version to load, and how.
type Request struct {
	Version  repository.Version
	Settings string // the text of the model.yaml beside the file; empty: none
	// Background says that other versions are being served meanwhile, which need the cores first.
	Background bool
	// Warming, if set, is called when the file has been read and the warm-up begins.
	Warming func()
}

// A Loaded is a servable and what its load found out.
type Loaded struct {
	*servable.Servable
	description Description
	arena       *isolation.Arena // of the images; nil: none
}

// Close closes the servable; see there.
func (l *Loaded) Close() error {
	err := l.Servable.Close()
	if l.arena == nil {
		return err
	}
	return errors.Join(err, l.arena.Close())
}

// A Description says what a loaded version is.
type Description struct {
	servable.Info
	Findings Findings
	WarmUp   WarmUp
	Timings  []Timing // of the first instance; empty if Shared.TimedRuns is 0 or the warm-up failed
}

// WarmUp is how the warm-up went.
type WarmUp struct {
	Duration time.Duration // reading the file included
	// Slowest is the batch that took longest, the checks' included; zero if the warm-up failed.
	Slowest SlowestBatch
	// Err is why the warm-up failed at a size that only the loader chose; images of other sizes may work. nil: it succeeded.
	Err error
}

// A SlowestBatch is how long the slowest batch of a warm-up took.
type SlowestBatch struct {
	Duration time.Duration
	Pixels   int // of the input, all images together
}

// Description describes the version.
func (l *Loaded) Description() Description { return l.description }

// Load loads a version. The caller must Close what it returns. When ctx ends, Load stops at its next step with the cause
// of ctx; a step can take as long as reading the file or running one batch.
//
// Errors: those of the source, of the settings and of torch for a file that can't be loaded or a model that can't run;
// repository.ErrChanged for a file that was changed meanwhile.
func (l *Loader) Load(ctx context.Context, r Request) (*Loaded, error) {
	file, err := l.open(r.Version)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	cfg, err := l.effective(file.File, r.Settings)
	if err != nil {
		return nil, err
	}
	if err := checkDigest(file.content, cfg.Digest); err != nil {
		return nil, err
	}
	l.shared.Shares.Set(l.source.Name(), cfg.Weight)
	defer l.shared.Trimmer.Used() // the memory of the warm-up, which the next batch may not need
	var tried *Description
	if l.shared.Trial && !l.shared.Isolate && isolation.Supported {
		if tried, err = l.try(ctx, r, file, cfg); err != nil {
			return nil, err
		}
		r.Warming = nil // it was called
	}
	loaded, err := l.prepare(ctx, r, file, cfg, l.shared.placeToServe(), tried)
	if err != nil {
		return nil, err
	}
	// A file that was written to while it was read is neither the old one nor the new one.
	if err := l.source.Unchanged(r.Version); err != nil {
		return nil, errors.Join(err, loaded.Close())
	}
	return loaded, nil
}

// try loads a version in a child process, unloads it, and describes it.
func (l *Loader) try(ctx context.Context, r Request, file modelFile, cfg settings.Settings) (*Description, error) {
	start := time.Now()
	cfg.Instances = 1 // the others do the same
	tried, err := l.prepare(ctx, r, file, cfg, inTrial, nil)
	if err != nil {
		return nil, err
	}
	l.shared.Log.Debug().Str("model", l.source.Name()).Dur("took_ms", time.Since(start)).Msg("version passed its trial")
	return &tried.description, tried.Close()
}

func (l *Loader) prepare(ctx context.Context, r Request, file modelFile, cfg settings.Settings, where place, tried *Description) (*Loaded, error) {
	p, err := newPreparation(ctx, l, r, file, cfg, where, tried)
	if err != nil {
		return nil, err
	}
	return p.run()
}

// Check opens the newest version that can be a model, without loading it, and returns the settings that it will have. It
// finds a missing model, a wrong file and wrong settings early. Beside an error it returns the default settings.
func (l *Loader) Check() (settings.Settings, error) {
	listing, err := l.source.List()
	if err != nil {
		return settings.Default(), err
	}
	var errs []error
	for _, version := range listing.Versions {
		cfg, err := l.check(version, string(listing.Settings))
		if err == nil {
			return cfg, nil
		}
		errs = append(errs, err)
	}
	return settings.Default(), errors.Join(errs...)
}

func (l *Loader) check(version repository.Version, beside string) (settings.Settings, error) {
	file, err := l.open(version)
	if err != nil {
		return settings.Settings{}, err
	}
	defer func() { _ = file.Close() }()
	if err := file.Check(); err != nil {
		return settings.Settings{}, err
	}
	return l.effective(file.File, beside)
}

// IsPackage reports whether the newest version is an AOTInductor package; false also if it can't be opened.
func (l *Loader) IsPackage() bool {
	listing, err := l.source.List()
	if err != nil {
		return false
	}
	file, err := l.open(listing.Versions[0])
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	return file.IsPackage()
}

// ProbeCUDA makes LibTorch look for CUDA, which it does only once, before the first module is loaded: the first model may
// be on the CPU and a later one on a GPU. Load reports a device that is missing.
func ProbeCUDA() {
	if cuda, err := torch.NewDevice("cuda:0"); err == nil {
		_ = cuda.Available()
	}
}

// LoadOperators loads libraries of operators, by torch.LoadOperators, for all models of this process. Call it after ProbeCUDA,
// and before a model is loaded.
func LoadOperators(libraries []string) error {
	for _, library := range libraries {
		if err := torch.LoadOperators(library); err != nil {
			return fmt.Errorf("loader: --operators: %w", err)
		}
	}
	return nil
}

// devices returns the devices to use: those of the settings, or with auto the first CUDA device, if there is one, or else
// the CPU.
func devices(wanted settings.Devices) ([]torch.Device, error) {
	if len(wanted) == 0 {
		cuda, err := torch.NewDevice("cuda:0")
		if err == nil && cuda.Available() == nil {
			return []torch.Device{cuda}, nil
		}
		return []torch.Device{torch.CPU}, nil
	}
	for _, device := range wanted {
		if err := device.Available(); err != nil {
			return nil, err
		}
	}
	return wanted, nil
}

// checkMemory refuses a model that is too large before any memory is taken.
func (l *Loader) checkMemory(weights int64, instances int) error {
	need := weights * int64(instances)
	if limit := l.shared.MaxMemory; limit > 0 && need > limit {
		return fmt.Errorf("loader: %d instance(s) need at least %d bytes of memory, and --max-model-memory is %d: %w", instances, need, limit, torch.ErrOutOfMemory)
	}
	return nil
}

// newCodec returns the codec of an input. fill is the value of the pixels beside an image with fit: letterbox.
func (l *Loader) newCodec(cfg *settings.Settings, fill byte, pixels imagecodec.Memory) (*imagecodec.Codec, error) {
	return imagecodec.NewCodec(imagecodec.Config{
		Pixels: pixels, Slots: l.shared.Slots, Weight: cfg.Weight, MaxPixels: l.shared.MaxPixels,
		RefusePalette: l.shared.RefusePalette, HEIC: l.shared.HEIC, Size: cfg.Size, MaxSide: cfg.MaxSide, MultipleOf: cfg.MultipleOf,
		Fit: cfg.ImageFit(), Fill: fill, Tile: cfg.Tile, TileStride: cfg.TileStride(), Overlap: cfg.Overlap,
		ResizeFilter: cfg.ResizeFilter, JPEGScale: cfg.JPEGScale, EXIF: cfg.EXIF, Color: cfg.Color, Alpha: cfg.Alpha, Metadata: cfg.Metadata, Grayscale: cfg.Grayscale, Quality: cfg.Quality,
		Output: cfg.OutputKind, Palette: cfg.Palette, Log: l.shared.Log.With().Str("model", l.source.Name()).Logger(),
	})
}
