package loader_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

func newShared() *loader.Shared {
	return &loader.Shared{
		Slots: cpu.NewSlots(2), Cores: 2, Shares: cpu.NewShares(), MaxPixels: imagecodec.DefaultMaxPixels, Log: zerolog.Nop(),
		Override: func(cfg *settings.Settings) {
			if cfg.Size == settings.Default().Size {
				cfg.Size = settings.Size{Width: 32, Height: 24}
			}
		},
	}
}

// newLoader returns a loader of the model at path, and a request for its newest version.
func newLoader(t *testing.T, path string, shared *loader.Shared) (*loader.Loader, loader.Request) {
	t.Helper()
	source, err := repository.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	listing, err := source.List()
	if err != nil {
		t.Fatal(err)
	}
	return loader.New(source, shared), loader.Request{Version: listing.Versions[0], Settings: string(listing.Settings)}
}

func module(name string) string { return goldens.Path("modules/" + name) }

// mustLoad loads a version, which the test's end closes.
func mustLoad(t *testing.T, l *loader.Loader, r loader.Request) *loader.Loaded {
	t.Helper()
	loaded, err := l.Load(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := loaded.Close(); err != nil {
			t.Error(err)
		}
	})
	return loaded
}

func TestLoadDescribesTheModel(t *testing.T) {
	shared := newShared()
	shared.TimedRuns = 3
	for _, background := range []bool{false, true} {
		l, r := newLoader(t, module("negate.pt"), shared)
		warming := 0
		r.Background, r.Warming = background, func() { warming++ }
		d := mustLoad(t, l, r).Description()
		if warming != 1 || d.Devices != "cpu" || d.Instances != 1 || d.Threads != 1 || d.WarmUp.Err != nil || d.WarmUp.Duration <= 0 ||
			d.WarmUp.Slowest.Duration <= 0 || d.WarmUp.Slowest.Pixels%(32*24) != 0 {
			t.Errorf("background %v: warming was called %d times; %+v", background, warming, d)
		}
		if len(d.Timings) != d.Settings.MaxBatchSize {
			t.Fatalf("%d timings for batches of up to %d", len(d.Timings), d.Settings.MaxBatchSize)
		}
		for i, timing := range d.Timings {
			if timing.BatchSize != i+1 || timing.Input.Width != 32 || timing.Output.Height != 24 || timing.Duration <= 0 {
				t.Errorf("%+v", timing)
			}
		}
	}
}

// Several instances are all loaded and warmed up.
func TestLoadInstances(t *testing.T) {
	shared := newShared()
	shared.Override = func(cfg *settings.Settings) { cfg.Instances, cfg.Threads = 3, 2 }
	l, r := newLoader(t, module("negate.pt"), shared)
	if d := mustLoad(t, l, r).Description(); d.Instances != 3 || d.Threads != 2 {
		t.Errorf("%+v", d)
	}
}

func TestLoadErrors(t *testing.T) {
	small := newShared()
	small.MaxMemory = 10
	wrong := newShared()
	wrong.Override = func(cfg *settings.Settings) { cfg.Quality = 101 }
	for _, test := range []struct {
		module string
		shared *loader.Shared
		kind   error
		text   string
	}{
		{"garbage.pt", newShared(), torch.ErrNotAModule, ""},
		{"checkpoint.pth", newShared(), torch.ErrNotAModule, "torchherd_tools export"},
		{"nan.pt", newShared(), nil, "NaN or infinite"},
		{"two_channels.pt", newShared(), nil, "1, 3 or 4"},
		{"needs_four.pt", newShared(), torch.ErrForward, "the model fails with 1 image of 32x24"},
		{"negate.pt", small, torch.ErrOutOfMemory, "--max-model-memory is 10"},
		{"negate.pt", wrong, nil, "quality is 101"},
	} {
		l, r := newLoader(t, module(test.module), test.shared)
		loaded, err := l.Load(t.Context(), r)
		if err == nil {
			t.Errorf("%s was loaded", test.module)
			_ = loaded.Close()
			continue
		}
		if test.kind != nil && !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v", test.module, err)
		}
	}
}

// A failure at a size that only the loader chose doesn't keep a model of any size from being served.
func TestAFailedWarmUpOfAGuessedSize(t *testing.T) {
	shared := newShared()
	shared.TimedRuns = 1
	shared.Override = func(cfg *settings.Settings) { cfg.Size = settings.Size{} }
	l, r := newLoader(t, module("needs_four.pt"), shared)
	if d := mustLoad(t, l, r).Description(); d.WarmUp.Err == nil || len(d.Timings) != 0 {
		t.Errorf("%+v", d)
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	l, r := newLoader(t, module("negate.pt"), newShared())
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	r.Warming = func() { cancel(why) }
	if _, err := l.Load(ctx, r); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// A file that is replaced while it is loaded isn't served.
func TestLoadOfAChangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.pt")
	put := func(name string) {
		if err := os.WriteFile(path+".new", goldens.Read(t, "modules/"+name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put("negate.pt")
	l, r := newLoader(t, path, newShared())
	r.Warming = func() { put("identity.pt") }
	if _, err := l.Load(t.Context(), r); !errors.Is(err, repository.ErrChanged) {
		t.Errorf("got %v", err)
	}
}

// Check finds a wrong file without loading it, and accepts a folder if one of its versions can be a model.
func TestCheck(t *testing.T) {
	folder := t.TempDir()
	put := func(name, content string) {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("2/model.pt", "garbage")
	l, _ := newLoader(t, folder, newShared())
	if _, err := l.Check(); !errors.Is(err, torch.ErrNotAModule) {
		t.Errorf("a folder with garbage: %v", err)
	}
	put("1/model.pt", string(goldens.Read(t, "modules/negate.pt")))
	if _, err := l.Check(); err != nil {
		t.Errorf("a folder with a good older version: %v", err)
	}
	put("model.yaml", "weight: 7\n")
	if cfg, err := l.Check(); err != nil || cfg.Weight != 7 {
		t.Errorf("got weight %d, %v, want 7", cfg.Weight, err)
	}
	put("model.yaml", "weight: heavy\n")
	if cfg, err := l.Check(); err == nil || !strings.Contains(err.Error(), "weight") || cfg.Weight != 1 {
		t.Errorf("wrong settings: got weight %d, %v, want the default and an error", cfg.Weight, err)
	}
	for name, ok := range map[string]bool{"negate.pt": true, "negate.pt2": true, "garbage.pt": false, "truncated.pt": false, "checkpoint.pth": false} {
		l, _ := newLoader(t, module(name), newShared())
		if _, err := l.Check(); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if got := l.IsPackage(); got != (name == "negate.pt2") {
			t.Errorf("%s: IsPackage is %v", name, got)
		}
	}
}
