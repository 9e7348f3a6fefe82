package loader

import (
	"hash/crc32"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// newParts returns the further inputs of requests, with their codecs.
func (p *preparation) newParts(pixels imagecodec.Memory) error {
	for _, input := range p.cfg.Inputs.Parts() {
		part := servable.Part{Input: input}
		if input.Kind == torch.InputImage {
			cfg := p.cfg
			cfg.Size, cfg.MaxSide, cfg.MultipleOf, cfg.JPEGScale, cfg.Tile = input.Size, 0, 0, false, 0
			if cfg.Fit = p.cfg.ImageFit(); !input.Size.Keep() {
				cfg.Fit = settings.Stretch
			}
			cfg.ResizeFilter, cfg.Grayscale = input.ResizeFilter, settings.ToRGB
			cfg.Metadata, cfg.Alpha.Keep = settings.NoMetadata, false // the result has those of the image
			var err error
			if part.Codec, err = p.loader.newCodec(&cfg, byte(input.Default), pixels); err != nil {
				return err
			}
		}
		p.parts = append(p.parts, part)
	}
	return nil
}

// graphs reports whether batches are replayed as CUDA graphs. A graph has no inputs that differ between batches but the
// image.
func (p *preparation) graphs() bool {
	if p.cfg.CUDAGraphs && len(p.parts) > 0 {
		p.loader.shared.Log.Warn().Str("model", p.loader.source.Name()).Msg("cuda-graphs has no effect: the model takes more than the image from a request")
		return false
	}
	return p.cfg.CUDAGraphs
}

// withTestParts adds further inputs to the batches of a load, which have none.
type withTestParts struct {
	servable.Instance
	parts []servable.Part
}

func (w withTestParts) CheckFinite(batch torch.Images) error {
	return w.Instance.CheckFinite(addTestParts(w.parts, batch))
}

func (w withTestParts) Start(batch torch.Images) (isolation.Answer, error) {
	return w.Instance.Start(addTestParts(w.parts, batch))
}

// addTestParts adds further inputs to a batch that has none. They depend on the image alone, so that an item has the same
// ones in every batch.
func addTestParts(parts []servable.Part, batch torch.Images) torch.Images {
	if batch.Parts != nil || len(parts) == 0 {
		return batch
	}
	batch.Parts = &torch.Parts{}
	for i := range parts {
		part := &parts[i]
		if part.Codec == nil {
			batch.Parts.Numbers = append(batch.Parts.Numbers, testNumbers(part, len(batch.Items)))
			continue
		}
		images := torch.Images{Width: part.Size.Width, Height: part.Size.Height, Channels: 3}
		if part.Size.Keep() {
			images.Width, images.Height = batch.Width, batch.Height
		}
		for _, item := range batch.Items {
			img := testImage(0, images.Width, images.Height)
			shift := byte(crc32.ChecksumIEEE(item))
			for k := range img.Pixels {
				img.Pixels[k] += shift
			}
			images.Items = append(images.Items, img.Pixels)
		}
		batch.Parts.Images = append(batch.Parts.Images, images)
	}
	return batch
}

// testNumbers returns the default, or else the number nearest to 0 that requests may send, for each of count items.
func testNumbers(part *servable.Part, count int) []float64 {
	number := part.Default
	if part.Required {
		number = min(max(0, part.Min), part.Max)
	}
	numbers := make([]float64, count)
	for i := range numbers {
		numbers[i] = number
	}
	return numbers
}
