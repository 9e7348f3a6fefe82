// Package settings is what can be said of a model: how pictures become its tensors and back, how requests are gathered
// for it, and what it runs on. A model.yaml says it, beside the model or inside its file, and so do flags of the command.
package settings

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// FileName is the name of the file with a model's settings: in the model's folder, or as a record extra/model.yaml in
// the model's own file.
const FileName = "model.yaml"

// Settings are a model's settings. Their names in a file are also those of the command's flags.
type Settings struct {
	// Size is what pictures are resized to.
	Size Size `yaml:"size"`
	// MultipleOf and MaxSide bound the sizes that pictures keep; see imagecodec.Config. 0: no bound.
	MultipleOf   int    `yaml:"multiple-of"`
	MaxSide      int    `yaml:"max-side"`
	ResizeFilter Filter `yaml:"resize-filter"`
	// JPEGScale decodes large JPEGs at a fraction of their size; see imagecodec.Config.
	JPEGScale bool      `yaml:"jpeg-scale"`
	Grayscale Grayscale `yaml:"grayscale"`
	EXIF      EXIF      `yaml:"exif"`

	// Channels is the order of the tensor's channels. An answer with three has the same, or is RGB after gray.
	Channels Channels `yaml:"channels"`
	// InputRange is what the pixel values 0 and 255 become, OutputRange which values of the answer become those. Two
	// numbers each, which differ.
	InputRange  []float64 `yaml:"input-range"`
	OutputRange []float64 `yaml:"output-range"`
	// Mean is subtracted from the input's values in their range, which are then divided by Std: one number for all channels,
	// or three in the tensor's order. Empty: neither.
	Mean []float64 `yaml:"mean"`
	Std  []float64 `yaml:"std"`

	// Format is that of answers whose request asks for none; Quality is of JPEGs, 1 to 100.
	Format  Format `yaml:"format"`
	Quality int    `yaml:"quality"`

	MaxBatchSize int           `yaml:"max-batch-size"` // pictures
	MaxQueueSize int           `yaml:"max-queue-size"` // pictures
	MaxWait      time.Duration `yaml:"max-wait"`
	WaitPolicy   WaitPolicy    `yaml:"wait-policy"`

	Precision Precision `yaml:"precision"`
	// Device is where the model runs: "cpu", "cuda:N" or "auto", or several of the first two.
	Device Devices `yaml:"device"`
	// Instances is how many copies run side by side on each device; Threads what a forward of each may use, 0: chosen.
	Instances  int  `yaml:"instances"`
	Threads    int  `yaml:"threads"`
	CUDAGraphs bool `yaml:"cuda-graphs"`
	// WarmUp is the sizes that a model of any size is warmed up with.
	WarmUp []Size `yaml:"warm-up"`
	// Weight is the model's share of the cores, in relation to the other models' weights.
	Weight int `yaml:"weight"`

	// Versions is which of a folder's versions are served.
	Versions Policy `yaml:"versions"`
	// Digest is what the model's file must have: "sha256:" and 64 hexadecimal digits. Empty: anything.
	Digest Digest `yaml:"digest"`
}

// Default returns the settings of a model of which nothing is said: the Sanic demo's, where it has one.
func Default() Settings {
	return Settings{
		Size: Size{228, 228}, ResizeFilter: "bilinear", Grayscale: Refuse, EXIF: Apply,
		Channels: RGB, InputRange: []float64{0, 1}, OutputRange: []float64{0, 1},
		Format: "jpeg", Quality: 75,
		MaxBatchSize: 2, MaxQueueSize: 3, MaxWait: time.Second, WaitPolicy: Adaptive,
		Precision: "fp32", Device: Devices{Auto}, Instances: 1,
		Weight: 1, Versions: Policy{Latest: 1},
	}
}

// maxSide is the largest side of a JPEG, and maxCount a bound for numbers of things, beyond which a setting is a slip.
const (
	maxSide  = 65500
	maxCount = 1 << 20
)

// Validate returns an error that names the first setting that can't be, alone or beside the others.
func (s *Settings) Validate() error {
	for _, number := range []struct {
		key                string
		value, least, most int
	}{
		{"multiple-of", s.MultipleOf, 0, maxSide},
		{"max-side", s.MaxSide, 0, maxSide},
		{"quality", s.Quality, 1, 100},
		{"max-batch-size", s.MaxBatchSize, 1, maxCount},
		{"max-queue-size", s.MaxQueueSize, 1, maxCount},
		{"instances", s.Instances, 1, 1024},
		{"threads", s.Threads, 0, 1024},
		{"weight", s.Weight, 1, 1000},
	} {
		if number.value < number.least || number.value > number.most {
			return fmt.Errorf("%s is %d and must be %d to %d", number.key, number.value, number.least, number.most)
		}
	}
	if s.MaxWait < 0 {
		return fmt.Errorf("max-wait is %v and must not be negative", s.MaxWait)
	}
	return errors.Join(s.validateSizes(), s.validateValues())
}

func (s *Settings) validateSizes() error {
	switch {
	case !s.Size.Keep() && (s.MultipleOf != 0 || s.MaxSide != 0 || len(s.WarmUp) > 0):
		return fmt.Errorf("multiple-of, max-side and warm-up are for size: keep, and the size is %v", s.Size)
	case s.MaxSide != 0 && s.MaxSide < s.MultipleOf:
		return fmt.Errorf("max-side is %d, and no side up to that is a multiple of %d", s.MaxSide, s.MultipleOf)
	}
	for _, size := range s.WarmUp {
		if size.Keep() {
			return errors.New("warm-up takes sizes, such as [256x256], and not keep")
		}
	}
	return nil
}

func (s *Settings) validateValues() error {
	type values struct {
		key     string
		numbers []float64
	}
	for _, pair := range []values{{"input-range", s.InputRange}, {"output-range", s.OutputRange}} {
		if n := pair.numbers; len(n) != 2 || n[0] == n[1] || !finite(n) {
			return fmt.Errorf("%s is %v and must be two different numbers, such as [-1, 1]", pair.key, n)
		}
	}
	channels := 3
	if s.Channels == Gray {
		channels = 1
	}
	for _, each := range []values{{"mean", s.Mean}, {"std", s.Std}} {
		if n := len(each.numbers); n > 1 && n != channels || !finite(each.numbers) {
			return fmt.Errorf("%s is %v and must be one number, or one for each channel (%d)", each.key, each.numbers, channels)
		}
	}
	for _, value := range s.Std {
		if value <= 0 {
			return fmt.Errorf("std is %v and must be above 0", s.Std)
		}
	}
	return nil
}

func finite(values []float64) bool {
	for _, value := range values {
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return false
		}
	}
	return true
}
