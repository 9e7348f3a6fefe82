package servable_test

import (
	"bytes"
	"context"
	"errors"
	"image/jpeg"
	"image/png"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// load returns a servable of a test module with these settings. The test's end closes it.
func load(t *testing.T, name string, change func(*settings.Settings)) *servable.Servable {
	t.Helper()
	cfg := settings.Default()
	cfg.Size = settings.Size{Width: 16, Height: 8}
	cfg.MaxWait = 0
	if change != nil {
		change(&cfg)
	}
	module, err := torch.Load(goldens.Path("modules/"+name), torch.Options{Values: cfg.TensorValues()})
	if err != nil {
		t.Fatal(err)
	}
	codec, err := imagecodec.NewCodec(imagecodec.Config{
		Slots: cpu.NewSlots(2), Weight: 1, MaxPixels: imagecodec.DefaultMaxPixels, Size: cfg.Size, Quality: cfg.Quality,
	})
	if err != nil {
		t.Fatal(err)
	}
	shares := cpu.NewShares()
	shares.Set("test", 1)
	s, err := servable.New(servable.Config{
		Name: "test", Settings: cfg, Instances: []servable.Instance{servable.InProcess(module)}, Codec: codec, Threads: 1, Shares: shares, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func photograph(t *testing.T) []byte { return goldens.Read(t, "pictures/jpeg-small.jpg") }

func TestProcessReturnsTheModelsImage(t *testing.T) {
	s := load(t, "upscale2.pt", nil)
	photo := photograph(t)
	for _, format := range []settings.Format{settings.JPEG, settings.PNG} {
		r, err := s.Process(t.Context(), bytes.NewReader(photo), servable.Options{Length: int64(len(photo)), Format: format})
		if err != nil {
			t.Fatal(err)
		}
		decode := map[settings.Format]func(io.Reader) (w, h int, err error){
			settings.JPEG: func(r io.Reader) (int, int, error) { c, err := jpeg.DecodeConfig(r); return c.Width, c.Height, err },
			settings.PNG:  func(r io.Reader) (int, int, error) { c, err := png.DecodeConfig(r); return c.Width, c.Height, err },
		}[format]
		if w, h, err := decode(bytes.NewReader(r.Body)); w != 32 || h != 16 || err != nil {
			t.Errorf("%s: %dx%d, %v", format, w, h, err)
		}
		stages := r.Stages
		if stages.Received != len(photo) || stages.BatchSize != 1 || stages.Receive <= 0 || stages.Decode <= 0 || stages.Forward <= 0 || stages.Encode <= 0 {
			t.Errorf("%s: %+v", format, stages)
		}
		r.Release()
	}
	if got := s.Info(); got.Devices != "cpu" || got.Instances != 1 || got.Threads != 1 || s.DefaultFormat() != settings.JPEG {
		t.Errorf("%+v", got)
	}
}

// Whatever the announced length, the whole body is read, also one that grows past the first buffer and comes in pieces.
func TestProcessReadsTheWholeBody(t *testing.T) {
	s := load(t, "negate.pt", nil)
	photo := photograph(t)
	padded := append(bytes.Clone(photo), make([]byte, 1<<20)...)
	for _, body := range [][]byte{photo, padded} {
		for _, length := range []int64{-1, 0, 10, int64(len(body)), 1 << 40} {
			r, err := s.Process(t.Context(), iotest.OneByteReader(bytes.NewReader(body[:len(photo)])), servable.Options{Length: length, Format: settings.JPEG})
			if err != nil || r.Stages.Received != len(photo) {
				t.Errorf("length %d: %v, %+v", length, err, r.Stages)
			}
			r.Release()
			r, err = s.Process(t.Context(), bytes.NewReader(body), servable.Options{Length: length, Format: settings.JPEG})
			if err != nil || r.Stages.Received != len(body) {
				t.Errorf("length %d: %v, %+v", length, err, r.Stages)
			}
			r.Release()
		}
	}
}

// An error of the body is returned as it is; bytes that aren't an image are an *imagecodec.Error; both have the stages
// that were reached.
func TestErrorsOfTheBody(t *testing.T) {
	s := load(t, "negate.pt", nil)
	why := errors.New("why")
	r, err := s.Process(t.Context(), iotest.ErrReader(why), servable.Options{Format: settings.JPEG})
	if !errors.Is(err, why) || r.Stages.Received != 0 {
		t.Errorf("got %v, %+v", err, r.Stages)
	}
	r, err = s.Process(t.Context(), strings.NewReader("moo"), servable.Options{Format: settings.JPEG})
	if unusable := (*imagecodec.Error)(nil); !errors.As(err, &unusable) || r.Stages.Received != 3 || r.Stages.Decode <= 0 {
		t.Errorf("got %v, %+v", err, r.Stages)
	}
}

// Only a failure of the model is a *ModelError, and it hides what it was caused by.
func TestOnlyTheModelsFailureIsAModelError(t *testing.T) {
	black := goldens.Read(t, "pictures/jpeg-small.jpg")
	failing := load(t, "fails_on_black.pt", nil)
	dark := encodeBlack(t)
	var failed *servable.ModelError
	_, err := failing.Process(t.Context(), bytes.NewReader(dark), servable.Options{Format: settings.JPEG})
	if !errors.As(err, &failed) || !errors.Is(failed.Cause, torch.ErrForward) || errors.Is(err, torch.ErrForward) {
		t.Errorf("a model that fails: %v", err)
	}
	if _, err := failing.Process(t.Context(), bytes.NewReader(black), servable.Options{Format: settings.JPEG}); err != nil {
		t.Errorf("after the failure: %v", err)
	}

	waiting := load(t, "negate.pt", func(cfg *settings.Settings) {
		cfg.MaxWait, cfg.WaitPolicy, cfg.MaxQueueSize = time.Hour, settings.Fixed, 1
	})
	// Of two requests one takes the queue's only place and the other is refused. Then the one in the queue leaves.
	why := errors.New("the client left")
	results := make(chan error, 2)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	for range 2 {
		go func() {
			_, err := waiting.Process(ctx, bytes.NewReader(black), servable.Options{Format: settings.JPEG})
			results <- err
		}()
	}
	for _, want := range []error{batch.ErrFull, why} {
		if err := <-results; !errors.Is(err, want) || errors.As(err, new(*servable.ModelError)) {
			t.Errorf("got %v, want %v", err, want)
		}
		cancel(why)
	}
}

// encodeBlack returns a PNG of one black pixel.
func encodeBlack(t *testing.T) []byte {
	t.Helper()
	codec, err := imagecodec.NewCodec(imagecodec.Config{Slots: cpu.NewSlots(1), Weight: 1, MaxPixels: 1, Size: settings.Size{Width: 1, Height: 1}, Quality: 75})
	if err != nil {
		t.Fatal(err)
	}
	file, err := codec.Encode(t.Context(), imagecodec.Image{Width: 1, Height: 1, Channels: 3, Pixels: make([]byte, 3)}, imagecodec.Encoding{Format: settings.PNG})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestProcessAfterClose(t *testing.T) {
	s := load(t, "negate.pt", nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Process(t.Context(), bytes.NewReader(photograph(t)), servable.Options{Format: settings.JPEG})
	if !errors.Is(err, batch.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// Run takes a batch past the queue, on the instance's own thread.
func TestRunOnEachRunner(t *testing.T) {
	s := load(t, "identity.pt", nil)
	images := make([]imagecodec.Image, 2)
	for i := range images {
		images[i] = imagecodec.Image{Width: 2, Height: 1, Channels: 3, Pixels: []byte{10, 20, 30, byte(i), 50, 60}}
	}
	err := s.OnEachRunner(func(instance int) error {
		results, err := s.Run(instance, images)
		if err != nil {
			return err
		}
		for i, result := range results {
			if result.Width != 2 || result.Height != 1 || !bytes.Equal(result.Pixels, images[i].Pixels) {
				t.Errorf("%+v came back as %+v", images[i], result)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
