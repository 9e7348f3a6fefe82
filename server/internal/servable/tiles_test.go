package servable_test

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"image/png"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// counted is memory that knows what is in use.
type counted struct {
	mu    sync.Mutex
	inUse map[*byte]int
	most  int // bytes
	bytes int
}

func (c *counted) Alloc(size int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	memory := make([]byte, size)
	c.inUse[&memory[0]] = size
	c.bytes += size
	c.most = max(c.most, c.bytes)
	return memory
}

func (c *counted) Free(memory []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cap(memory) == 0 {
		return false
	}
	first := &memory[:1][0]
	size, ours := c.inUse[first]
	c.bytes -= size
	delete(c.inUse, first)
	return ours
}

func pngOf(t *testing.T, width, height int, at func(x, y int) color.Color) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		img.Set(i%width, i/width, at(i%width, i/width))
	}
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// Whatever becomes of a request, all memory for pixels comes back, and no more than a few tiles is in use at a time, beside
// the image and the result.
func TestTheMemoryOfTilesComesBack(t *testing.T) {
	const tile, side = 32, 400
	cfg := settings.Default()
	cfg.Size, cfg.Fit, cfg.MultipleOf, cfg.Tile, cfg.Overlap, cfg.MaxWait, cfg.MaxBatchSize = settings.Size{}, settings.Pad, 16, tile, 2, 0, 2
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	module, err := torch.Load(goldens.Path("modules/fails_on_black.pt"), torch.Options{Values: cfg.TensorValues()})
	if err != nil {
		t.Fatal(err)
	}
	pixels := &counted{inUse: map[*byte]int{}}
	codec, err := imagecodec.NewCodec(imagecodec.Config{
		Slots: cpu.NewSlots(2), Weight: 1, MaxPixels: imagecodec.DefaultMaxPixels, Quality: cfg.Quality, Pixels: pixels,
		Fit: cfg.ImageFit(), MultipleOf: cfg.MultipleOf, Tile: tile, TileStride: cfg.TileStride(), Overlap: cfg.Overlap,
	})
	if err != nil {
		t.Fatal(err)
	}
	shares := cpu.NewShares()
	shares.Set("test", 1)
	decoding := memory.NewBudget(4 << 20)
	s, err := servable.New(servable.Config{
		Name: "test", Settings: cfg, Instances: []servable.Instance{servable.InProcess(module)}, Codec: codec, Threads: 1, Shares: shares,
		Decoding: decoding, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	process := func(ctx context.Context, file []byte, size string) error {
		options := servable.Options{Length: int64(len(file)), Format: settings.JPEG, Size: new(settings.AnswerSize)}
		if err := options.Size.UnmarshalText([]byte(size)); err != nil {
			t.Fatal(err)
		}
		r, err := s.Process(ctx, bytes.NewReader(file), options)
		if err == nil {
			r.Release()
		}
		return err
	}
	bright := func(x, y int) color.Color { return color.NRGBA{uint8(x), uint8(y), 200, 255} }
	good := pngOf(t, side, side, bright)
	bad := pngOf(t, side, side, func(x, y int) color.Color {
		if x > side/2 && y > side/2 {
			return color.Black
		}
		return bright(x, y)
	})
	small := pngOf(t, 20, 10, bright)
	gone, cancel := context.WithCancel(t.Context())
	for name, run := range map[string]func() error{
		"tiles": func() error { return process(t.Context(), good, "model") }, "tiles at another size": func() error { return process(t.Context(), good, "50x60") },
		"padded": func() error { return process(t.Context(), small, "model") }, "padded at another size": func() error { return process(t.Context(), small, "99x9") },
	} {
		if err := run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if most := 20 * tile * tile * 3; pixels.most > most {
		t.Errorf("%d bytes for the model's pixels were in use at a time, want at most %d", pixels.most, most)
	}
	var failed *servable.ModelError
	if err := process(t.Context(), bad, "model"); !errors.As(err, &failed) {
		t.Errorf("a tile that fails: %v, want a ModelError", err)
	}
	var tooLarge *memory.TooLargeError
	if err := process(t.Context(), pngOf(t, 900, 900, bright), "model"); !errors.As(err, &tooLarge) {
		t.Errorf("an image whose result doesn't fit into the memory: %v, want a TooLargeError", err)
	}
	done := make(chan error, 1)
	go func() { done <- process(gone, good, "model") }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if n := s.Waiting(); n != 0 {
		t.Errorf("%d places are taken, want 0", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if len(pixels.inUse) > 0 {
		t.Errorf("%d pieces of memory are still in use", len(pixels.inUse))
	}
}
