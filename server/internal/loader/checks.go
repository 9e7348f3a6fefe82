package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Findings are what the checks of a load found out by running the model on images that it had never seen together.
// docs/decisions/0016-checks-at-load.md has their reasons.
type Findings struct {
	// Pure says that an image's result is the same whenever it runs.
	Pure bool
	// Varies says that results of one image differ by more than rounding, as with dropout or sampling.
	Varies bool
	// Mixes is why the model is served in batches of one; empty: it isn't, or was asked for.
	Mixes string
}

// Warnings returns what a user should know, one sentence each, without the period.
func (f *Findings) Warnings() []string {
	var warnings []string
	if f.Varies {
		warnings = append(warnings, "results of one image vary from run to run; was the model exported in training mode?")
	}
	if f.Mixes != "" {
		warnings = append(warnings, "served in batches of one: "+f.Mixes)
	}
	return warnings
}

// differentImages is how many different images the checks use. In a batch of more they repeat.
const differentImages = 3

// A batchError is why a model can't be batched, although that was asked for.
type batchError struct {
	mixes string
	cause error // nil: the model ran
}

func (e *batchError) Error() string { return "loader: the model can't be batched: " + e.mixes }

func (e *batchError) Unwrap() error { return e.cause }

// reasonOf returns the reason of an error of the model.
func reasonOf(err error) string {
	if failed := (*torch.Error)(nil); errors.As(err, &failed) {
		return failed.Detail
	}
	return err.Error()
}

// checkBatches finds out, on the first instance and at one size, whether results depend on more than their image. It runs
// different images alone, and then together: two, three, and the largest batch.
func (p *preparation) checkBatches(width, height int) error {
	images := testImages(differentImages, width, height)
	var alone []imagecodec.Image
	defer func() { p.recycle(alone) }()
	needed := differentImages
	if p.cfg.MaxBatchSize == 1 {
		needed = 2
	}
	for i := range needed {
		result, err := p.results(images[i : i+1])
		if err != nil {
			return err
		}
		alone = append(alone, result...)
	}
	again, err := p.results(images[:1])
	if err != nil {
		return err
	}
	defer p.recycle(again)
	p.findings.Pure = bytes.Equal(again[0].Pixels, alone[0].Pixels)
	if p.findings.Varies = p.differ(again[0], alone[0]) != ""; p.findings.Varies {
		return nil // nothing follows from a comparison
	}
	if p.cfg.MaxBatchSize == 1 {
		return nil
	}
	if err := p.checkPairs(images, alone); err != nil || p.findings.Mixes != "" {
		return err
	}
	for count := 3; count <= p.cfg.MaxBatchSize; count++ {
		if count > 3 {
			count = p.cfg.MaxBatchSize
		}
		if err := p.checkBatch(images, alone, count); err != nil || p.findings.Mixes != "" {
			return err
		}
	}
	return nil
}

// checkPairs runs an image with each of two others, and compares its results with each other, and all with those alone.
//
// The two batches have the same shape, so LibTorch's kernels do the same on the CPU, and not even rounding may differ between
// the image's two results. The image is the one with the narrowest range, which shows what depends on the range of the batch.
func (p *preparation) checkPairs(images, alone []imagecodec.Image) error {
	const narrow = differentImages - 1
	var pairs [2][]imagecodec.Image
	defer func() { p.recycle(append(pairs[0], pairs[1]...)) }()
	for other := range pairs {
		results, err := p.results([]imagecodec.Image{images[narrow], images[other]})
		if err != nil {
			return p.explainBatch(2, err)
		}
		pairs[other] = results
	}
	rounding, share := 0, 0.
	if p.device(0) != torch.CPU {
		rounding, share = roundingOf(torch.FP32)
	}
	if difference := p.differBy(pairs[0][0], pairs[1][0], rounding, share); difference != "" {
		return p.cantBatch("it mixes images: in a batch of 2, the result of an image depends on the other one ("+difference+")", nil)
	}
	for other, results := range pairs {
		if err := p.compare(results, []imagecodec.Image{alone[narrow], alone[other]}); err != nil || p.findings.Mixes != "" {
			return err
		}
	}
	return nil
}

// explainBatch handles the failure of a batch whose images run alone.
func (p *preparation) explainBatch(count int, err error) error {
	if errors.Is(err, torch.ErrForward) || errors.Is(err, torch.ErrOutput) {
		return p.cantBatch(fmt.Sprintf("it runs 1 image, but fails with %d (%s)", count, reasonOf(err)), err)
	}
	return err
}

// checkBatch runs a batch of the images, repeated, and compares its results with those of the images alone.
func (p *preparation) checkBatch(images, alone []imagecodec.Image, count int) error {
	batch, expected := make([]imagecodec.Image, count), make([]imagecodec.Image, count)
	for i := range batch {
		batch[i], expected[i] = images[i%len(alone)], alone[i%len(alone)]
	}
	results, err := p.results(batch)
	if err != nil {
		return p.explainBatch(count, err)
	}
	defer p.recycle(results)
	return p.compare(results, expected)
}

// compare compares the results of a batch with those of its images alone.
func (p *preparation) compare(results, alone []imagecodec.Image) error {
	for i, result := range results {
		if difference := p.differ(result, alone[i]); difference != "" {
			return p.cantBatch(fmt.Sprintf("it mixes images: in a batch of %d, the result of image %d isn't what it is alone (%s)", len(results), i+1, difference), nil)
		}
	}
	return nil
}

// leaveUnchecked has a model served in batches of one that doesn't run at the only size that the loader could try.
func (p *preparation) leaveUnchecked(size settings.Size) error {
	if p.checked || p.cfg.MaxBatchSize == 1 {
		return nil
	}
	p.checked = true
	unknown := fmt.Sprintf("its batches couldn't be checked, since it fails with images of %v; name a size that it accepts in warm-up", size)
	if p.cfg.Batching == settings.RequireSafe {
		return fmt.Errorf("loader: batching is %s, but %s", settings.RequireSafe, unknown)
	}
	p.findings.Mixes, p.cfg.MaxBatchSize = unknown, 1
	return nil
}

// cantBatch has the model served in batches of one, or returns an error if batches of more were asked for.
func (p *preparation) cantBatch(mixes string, cause error) error {
	if p.cfg.Batching == settings.RequireSafe || p.cfg.BatchSizeGiven {
		return &HintError{&batchError{mixes, cause}, []settings.Value{oneImage}}
	}
	p.findings.Mixes, p.cfg.MaxBatchSize = mixes, 1
	return nil
}

// results runs a batch on the first instance and returns its results, which the caller must recycle.
func (p *preparation) results(items []imagecodec.Image) ([]imagecodec.Image, error) {
	p.doing = describeBatch(len(items), items[0].Width, items[0].Height)
	var out torch.Images
	err := p.step(func() error {
		start := time.Now()
		answer, err := p.copies[0].Start(servable.Stack(items))
		if err == nil {
			out, err = answer.Read(p.codec.Alloc)
		}
		p.took(time.Since(start), items)
		return err
	})
	if err != nil {
		return nil, err
	}
	results := make([]imagecodec.Image, len(out.Items))
	for i, pixels := range out.Items {
		results[i] = imagecodec.Image{Width: out.Width, Height: out.Height, Channels: out.Channels, Pixels: pixels}
	}
	return results, nil
}

// differ returns by how much two results differ; empty: by no more than rounding.
func (p *preparation) differ(a, b imagecodec.Image) string {
	rounding, share := roundingOf(p.copies[0].Info().Precision)
	return p.differBy(a, b, rounding, share)
}

// differBy returns by how much two results differ; empty: no more than this share of the values differs by more than
// rounding levels.
func (p *preparation) differBy(a, b imagecodec.Image, rounding int, share float64) string {
	if a.Width != b.Width || a.Height != b.Height || a.Channels != b.Channels {
		return fmt.Sprintf("%dx%d with %d channel(s) instead of %dx%d with %d", a.Width, a.Height, a.Channels, b.Width, b.Height, b.Channels)
	}
	level, size := 1, 1 // of a value: in units, in bytes
	at := func(pixels []byte, i int) int { return int(pixels[i]) }
	if p.cfg.OutputKind == settings.Chroma {
		level, size = 256, 2
		at = func(pixels []byte, i int) int { return int(int16(binary.LittleEndian.Uint16(pixels[i:]))) }
	}
	values, outliers, most := len(a.Pixels)/size, 0, 0
	for i := 0; i < len(a.Pixels); i += size {
		x, y := at(a.Pixels, i), at(b.Pixels, i)
		difference := max(x, y) - min(x, y)
		most = max(most, difference)
		if difference > rounding*level {
			outliers++
		}
	}
	if float64(outliers) <= share*float64(values) {
		return ""
	}
	return fmt.Sprintf("%.0f %% of its values differ, by up to %d", 100*float64(outliers)/float64(values), max(1, most/level))
}

// roundingOf returns by how many of 255 levels a value may differ, and which part of the values by more, when the same image runs in batches of other sizes, for
// which LibTorch's kernels add the same numbers in another order.
//
// Each of D layers adds the rounding of its result, u relative to its range, where the order changes it, and passes on that
// of the layer before, on average unchanged. So the difference at the output is about sqrt(D) u of the range of values. For
// the deepest models in use, D = 256, that is 16 u: of 255 levels 0.0002 in float32 (u = 2^-24; sums of 4,608 products have
// 70 times that, 0.02), 1 in float16 and TF32 (u = 2^-12), 8 in bfloat16 (u = 2^-9). These are twice as much, and one more
// for the truncation to a byte. What a package computes in isn't known.
//
// A model that ends in a threshold or in the best of several classes turns a rounding difference into a large one, where two
// of them are close.
func roundingOf(precision torch.Precision) (levels int, outliers float64) {
	switch precision {
	case torch.FP32:
		return 1, 1. / 1000
	case torch.TF32, torch.FP16:
		return 3, 1. / 50
	}
	return 17, 1. / 50
}
