package loader_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/loader"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Bodies for goldens.Script that mix the images of a batch. The traces of windowed transformers do so where the example's
// batch of one became a constant.
var mixing = map[string]string{
	"the batch became channels (SwinIR, Uformer)": `
    n = torch.size(x, 0)
    t = torch.reshape(torch.permute(x, [0, 2, 3, 1]), [-1, 2, 8, 2, 8, 3])
    windows = torch.reshape(torch.permute(t, [0, 1, 3, 2, 4, 5]), [-1, 64, 3])
    y = torch.permute(torch.reshape(windows, [1, 2, 2, 8, 8, -1]), [0, 1, 3, 2, 4, 5])
    z = torch.permute(torch.reshape(y, [1, 16, 16, -1]), [0, 3, 1, 2])
    return torch.expand(torch.slice(z, 1, 0, 3), [n, 3, 16, 16])
`,
	"the batch became tokens (DAT, Swin2SR)": `
    tokens = torch.reshape(torch.permute(x, [0, 2, 3, 1]), [1, -1, 3])
    weights = torch.softmax(torch.matmul(tokens, torch.transpose(tokens, 1, 2)), -1)
    y = torch.matmul(weights, tokens)
    return torch.permute(torch.reshape(y, [torch.size(x, 0), 16, 16, 3]), [0, 3, 1, 2])
`,
	"least and greatest value of the batch": `
    return torch.div(torch.sub(x, torch.min(x)), torch.sub(torch.max(x), torch.min(x)))
`,
	"mean of the batch":    "\n    return torch.mul(x, torch.mean(x))\n",
	"softmax over images":  "\n    return torch.softmax(x, 0)\n",
	"images change places": "\n    return torch.flip(x, [0])\n",
	"only in batches of three": `
    if torch.eq(torch.size(x, 0), 3):
      y = torch.flip(x, [0])
    else:
      y = x
    return torch.mul(y, 1.)
`,
}

// square16 loads with a size of 16x16.
func square16(change func(*settings.Settings)) *loader.Shared {
	shared := newShared()
	shared.Override = func(cfg *settings.Settings) {
		cfg.Size = settings.Size{Width: 16, Height: 16}
		change(cfg)
	}
	return shared
}

func TestAModelThatMixesImagesIsServedInBatchesOfOne(t *testing.T) {
	for name, body := range mixing {
		l, r := newLoader(t, goldens.Script(t, body), square16(func(cfg *settings.Settings) { cfg.MaxBatchSize = 4 }))
		d := mustLoad(t, l, r).Description()
		if d.Settings.MaxBatchSize != 1 || !strings.Contains(d.Findings.Mixes, "mixes images") || len(d.Findings.Warnings()) != 1 {
			t.Errorf("%s: batches of up to %d, %+v", name, d.Settings.MaxBatchSize, d.Findings)
		}
	}
}

// Rounding to bfloat16 doesn't hide that an image's result depends on its companion.
func TestMixingIsFoundAtEveryPrecision(t *testing.T) {
	for _, precision := range []torch.Precision{torch.FP32, torch.BF16} {
		for _, share := range []string{"0.5", "0.02"} {
			path := goldens.Script(t, "    return torch.add(torch.mul(x, 0.5), torch.mul(torch.mean(x), "+share+"))\n")
			l, r := newLoader(t, path, square16(func(cfg *settings.Settings) { cfg.Precision = precision }))
			if d := mustLoad(t, l, r).Description(); d.Settings.MaxBatchSize != 1 || !strings.Contains(d.Findings.Mixes, "depends on the other one") {
				t.Errorf("%v, %s of the mean: batches of up to %d, %+v", precision, share, d.Settings.MaxBatchSize, d.Findings)
			}
		}
	}
}

// A model that doesn't run at the size that the loader chose is served in batches of one: nothing is known of its batches.
func TestAModelWhoseBatchesCantBeCheckedIsServedInBatchesOfOne(t *testing.T) {
	path := goldens.Script(t, "    return torch.add(torch.add(x, torch.zeros([1, 1, 64, 64])), torch.mean(x))\n")
	shared := newShared()
	shared.Override = func(cfg *settings.Settings) { cfg.Size = settings.Size{} }
	l, r := newLoader(t, path, shared)
	if d := mustLoad(t, l, r).Description(); d.Settings.MaxBatchSize != 1 || !strings.Contains(d.Findings.Mixes, "name a size that it accepts in warm-up") {
		t.Errorf("batches of up to %d, %+v", d.Settings.MaxBatchSize, d.Findings)
	}
	shared.Override = func(cfg *settings.Settings) { cfg.Size, cfg.Batching = settings.Size{}, settings.RequireSafe }
	l, r = newLoader(t, path, shared)
	if _, err := l.Load(t.Context(), r); err == nil || !strings.Contains(err.Error(), "batching is require") {
		t.Errorf("got %v", err)
	}
}

func TestAModelThatMixesImagesIsRefusedIfBatchesAreWanted(t *testing.T) {
	path := goldens.Script(t, mixing["mean of the batch"])
	for _, given := range []bool{false, true} {
		shared := square16(func(cfg *settings.Settings) {
			if cfg.BatchSizeGiven = given; !given {
				cfg.Batching = settings.RequireSafe
			}
		})
		l, r := newLoader(t, path, shared)
		_, err := l.Load(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), "can't be batched: it mixes images") || !strings.Contains(err.Error(), "it works with max-batch-size: 1") {
			t.Errorf("got %v", err)
		}
	}
}

// A model that only runs one image at a time is served so.
func TestAModelThatFailsWithTwoImagesIsServedInBatchesOfOne(t *testing.T) {
	l, r := newLoader(t, module("no_batch_two.pt"), newShared())
	d := mustLoad(t, l, r).Description()
	if want := "it runs 1 image, but fails with 2 (this module refuses a batch of two)"; d.Settings.MaxBatchSize != 1 || d.Findings.Mixes != want {
		t.Errorf("batches of up to %d, %+v", d.Settings.MaxBatchSize, d.Findings)
	}
	shared := newShared()
	shared.Override = func(cfg *settings.Settings) { cfg.Batching = settings.RequireSafe }
	l, r = newLoader(t, module("no_batch_two.pt"), shared)
	if _, err := l.Load(t.Context(), r); !errors.Is(err, torch.ErrForward) || !strings.Contains(err.Error(), "refuses a batch of two") {
		t.Errorf("got %v", err)
	}
}

func TestBatchingOff(t *testing.T) {
	shared := newShared()
	shared.Override = func(cfg *settings.Settings) { cfg.Batching, cfg.MaxBatchSize = settings.NoBatching, 8 }
	l, r := newLoader(t, module("negate.pt"), shared)
	if d := mustLoad(t, l, r).Description(); d.Settings.MaxBatchSize != 1 || len(d.Findings.Warnings()) != 0 {
		t.Errorf("batches of up to %d, %+v", d.Settings.MaxBatchSize, d.Findings)
	}
}

// Results that vary are reported, and say nothing about batches.
func TestResultsThatVaryAreReported(t *testing.T) {
	for name, body := range map[string]string{
		"dropout":  "\n    return torch.dropout(x, 0.5, True)\n",
		"sampling": "\n    return torch.add(x, torch.mul(torch.randn_like(x), 0.1))\n",
	} {
		l, r := newLoader(t, goldens.Script(t, body), newShared())
		d := mustLoad(t, l, r).Description()
		if !d.Findings.Varies || d.Findings.Pure || d.Findings.Mixes != "" || d.Settings.MaxBatchSize != 2 || len(d.Findings.Warnings()) != 1 {
			t.Errorf("%s: batches of up to %d, %+v", name, d.Settings.MaxBatchSize, d.Findings)
		}
	}
}

// A package that mixes images is found out too, and served in batches of one.
func TestAPackageThatMixesImages(t *testing.T) {
	shared := newShared()
	shared.Override = func(cfg *settings.Settings) { cfg.MaxBatchSize = 4 }
	l, r := newLoader(t, module("mixes_images.pt2"), shared)
	loaded, err := l.Load(t.Context(), r)
	if errors.Is(err, torch.ErrDevice) {
		t.Skip(err) // compiled for another machine
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := loaded.Close(); err != nil {
			t.Error(err)
		}
	}()
	if d := loaded.Description(); d.Settings.MaxBatchSize != 1 || !strings.Contains(d.Findings.Mixes, "mixes images") {
		t.Errorf("batches of up to %d, %+v, want 1 and a finding", d.Settings.MaxBatchSize, d.Findings)
	}
	shared.Override = func(cfg *settings.Settings) {
		cfg.MaxBatchSize, cfg.Batching = 4, settings.RequireSafe
	}
	if _, err := l.Load(t.Context(), r); err == nil || !strings.Contains(err.Error(), "it works with max-batch-size: 1") {
		t.Errorf("with batching: require: got %v", err)
	}
}

// Models that compute each image by itself are batched, at every precision.
func TestHonestModelsAreBatched(t *testing.T) {
	for _, test := range []struct {
		path      string
		precision torch.Precision
	}{
		{module("negate.pt"), torch.FP32},
		{module("negate.pt2"), torch.FP32},
		{module("gray.pt"), torch.FP32},
		{module("upscale2.pt"), torch.FP32},
		{module("out_of_range.pt"), torch.BF16},
		{"../../../models/photo2ink/model.pt", torch.FP32},
		{"../../../models/photo2ink/model.pt", torch.BF16},
	} {
		shared := newShared()
		shared.Override = func(cfg *settings.Settings) {
			cfg.Size, cfg.Precision, cfg.Batching, cfg.MaxBatchSize = settings.Size{Width: 32, Height: 24}, test.precision, settings.RequireSafe, 4
		}
		l, r := newLoader(t, test.path, shared)
		d := mustLoad(t, l, r).Description()
		if d.Settings.MaxBatchSize != 4 || !d.Findings.Pure || len(d.Findings.Warnings()) != 0 {
			t.Errorf("%s, %v: batches of up to %d, %+v", test.path, test.precision, d.Settings.MaxBatchSize, d.Findings)
		}
	}
}
