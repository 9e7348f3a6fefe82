// Package settings defines the settings of a model: how images become its input and its output becomes images, how
// requests form batches, and what the model runs on. They come from defaults, from a model.yaml beside the model or
// inside its file, and from flags. The package holds the only copy of each default, limit and description; the flags'
// help, the JSON Schema and the tables in docs/ are generated from it.
package settings

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/torchherd/torchherd/torch"
)

// FileName is the name of the file with a model's settings. It lies in the model's folder, or inside the model's own
// file as the record extra/model.yaml.
const FileName = "model.yaml"

// Settings are the settings of a model. Each has a key in model.yaml; All describes them.
type Settings struct {
	Size         Size
	MaxSide      int // 0: no limit
	MultipleOf   int // 0: any
	Fit          Fit
	AnswerSize   AnswerSize
	Tile         int // 0: none
	Overlap      int
	WarmUp       WarmUp
	ResizeFilter torch.Filter
	JPEGScale    bool
	Grayscale    Grayscale
	EXIF         EXIF
	Color        Color
	Alpha        AlphaMode

	Channels    torch.Channels
	InputRange  Range
	OutputRange Range
	Mean        []float64 // empty, one number for all channels, or one for each
	Std         []float64 // as Mean

	Output     OutputPath // empty: the only one
	OutputKind OutputKind
	Activation Activation
	Layout     Layout
	OutputMean []float64 // as Mean
	OutputStd  []float64 // as Mean
	Rounding   Rounding
	Palette    Palette

	Inputs Inputs

	Format   Format
	Quality  int
	Metadata Metadata

	Batching     Batching
	MaxBatchSize int
	// BatchSizeGiven says that MaxBatchSize isn't the default, but was asked for. It has no key.
	BatchSizeGiven bool
	MaxQueueSize   int
	MaxWait        time.Duration
	WaitPolicy     WaitPolicy

	Precision  torch.Precision
	Device     Devices
	Instances  int // on each device
	Threads    int // 0: chosen when the model is loaded
	CUDAGraphs bool

	Weight   int
	Versions Policy
	Digest   Digest // empty: not checked
}

// Default returns the default settings. They are those of the Sanic demo, where it has them.
func Default() Settings {
	return Settings{
		Size: Size{228, 228}, Fit: AutoFit, Overlap: 32, ResizeFilter: torch.Bilinear, Grayscale: Refuse, EXIF: Apply, Color: ConvertColor,
		Channels: torch.RGB, InputRange: Range{Low: 0, High: 1}, OutputRange: Range{Low: 0, High: 1},
		OutputKind: Image, Activation: NoActivation, Layout: AutoLayout, Rounding: RoundDown,
		Format: AutoFormat, Quality: 75, Metadata: NoMetadata,
		Batching: BatchIfSafe, MaxBatchSize: 2, MaxQueueSize: 3, MaxWait: time.Second, WaitPolicy: Adaptive,
		Precision: torch.FP32, Instances: 1,
		Weight: 1, Versions: Policy{Latest: 1},
	}
}

// fallbackWarmUp is the size for a model that keeps the sizes of images and has no warm-up sizes.
var fallbackWarmUp = Size{256, 256}

// WarmUpSizes returns the sizes of images to warm the model up with. guessed reports that no setting names a size, so that
// the model may refuse this one and still work with others.
func (s *Settings) WarmUpSizes() (sizes []Size, guessed bool) {
	switch {
	case !s.Size.Keep():
		return []Size{s.Size}, false
	case s.Tile != 0:
		tile := Size{s.Tile, s.Tile}
		return append([]Size{tile}, slices.DeleteFunc(slices.Clone(s.WarmUp.Sizes), func(each Size) bool { return each == tile })...), false
	case len(s.WarmUp.Sizes) > 0:
		return s.WarmUp.Sizes, false
	}
	return []Size{fallbackWarmUp}, true
}

// TensorValues returns how pixels become the model's input, and its output pixels, in the form that package torch takes.
func (s *Settings) TensorValues() torch.Values {
	return torch.Values{
		Channels: s.Channels, Input: torch.Range(s.InputRange), Output: torch.Range(s.OutputRange),
		Mean: perChannel(s.Mean, 0), Std: perChannel(s.Std, 1),
		Path: string(s.Output), Kind: s.OutputKind.torch(), Activation: s.Activation.torch(), Layout: s.Layout.torch(),
		Rounding: s.Rounding.torch(), OutputMean: perChannel(s.OutputMean, 0), OutputStd: perChannel(s.OutputStd, 1),
	}
}

// ResponseFormat returns the default format of responses.
func (s *Settings) ResponseFormat() Format {
	if s.Format != AutoFormat {
		return s.Format
	}
	return s.OutputKind.format()
}

// perChannel returns one value for each of three channels, of which a tensor with fewer uses the first ones.
func perChannel(values []float64, none float64) [3]float64 {
	switch len(values) {
	case 0:
		return [3]float64{none, none, none}
	case 1:
		return [3]float64{values[0], values[0], values[0]}
	}
	channels := [3]float64{none, none, none}
	copy(channels[:], values)
	return channels
}

// Validate returns an error that names a setting that is out of range or contradicts another one.
func (s *Settings) Validate() error {
	for _, setting := range table {
		value, isInt := setting.field(s).(*int)
		if isInt && (*value < setting.least || *value > setting.most) {
			return fmt.Errorf("%s is %d and must be %d to %d", setting.Key, *value, setting.least, setting.most)
		}
	}
	if s.MaxWait < 0 {
		return fmt.Errorf("max-wait is %v and must not be negative", s.MaxWait)
	}
	return errors.Join(s.validateSizes(), s.validateFit(), s.validateTiles(), s.validateValues(), s.validateOutput())
}

func (s *Settings) validateSizes() error {
	switch {
	case !s.Size.Keep() && (s.MultipleOf != 0 || s.MaxSide != 0 || len(s.WarmUp.Sizes) > 0):
		return fmt.Errorf("multiple-of, max-side and the sizes of warm-up need size: keep, but size is %v", s.Size)
	case s.MaxSide != 0 && s.MaxSide < s.MultipleOf:
		return fmt.Errorf("max-side is %d and must be at least multiple-of, which is %d", s.MaxSide, s.MultipleOf)
	}
	return nil
}

func (s *Settings) validateValues() error {
	return errors.Join(
		validateInput(s.Channels, s.Mean, s.Std),
		validateChannels("output-mean", s.OutputMean, s.OutputKind.channels()), validateChannels("output-std", s.OutputStd, s.OutputKind.channels()),
		validatePositive("output-std", s.OutputStd))
}

// validateInput checks the values of an input with these channels.
func validateInput(of torch.Channels, mean, std []float64) error {
	channels := int(of.Count())
	return errors.Join(validateChannels("mean", mean, channels), validateChannels("std", std, channels), validatePositive("std", std))
}

func validateChannels(key string, values []float64, channels int) error {
	if n := len(values); n > 1 && n != channels || !finite(values) {
		return fmt.Errorf("%s is %v and must be one number, or one for each channel (%d)", key, values, channels)
	}
	return nil
}

func validatePositive(key string, values []float64) error {
	for _, value := range values {
		if value <= 0 {
			return fmt.Errorf("%s is %v and must be positive", key, values)
		}
	}
	return nil
}

// validateOutput returns an error for a setting of the output that its kind doesn't use.
func (s *Settings) validateOutput() error {
	normalized := len(s.OutputMean) > 0 || len(s.OutputStd) > 0
	ranged := s.OutputRange != Default().OutputRange
	switch kind := s.OutputKind; {
	case len(s.Palette.Colours) > 0 && kind != Classes:
		return fmt.Errorf("palette needs output-kind: classes, but output-kind is %s", kind)
	case kind == Alpha && s.Format == JPEG:
		return errors.New("output-kind: alpha needs format: png, webp or avif, because a JPEG has no alpha")
	case s.Alpha.Keep && kind != Image && kind != Luma:
		return fmt.Errorf("alpha: keep needs output-kind: image or luma, but output-kind is %s", kind)
	case kind == Classes && (normalized || ranged || s.Activation != NoActivation):
		return errors.New("output-kind: classes takes the output as it is: remove output-range, output-mean, output-std and output-activation")
	case kind == Depth && (normalized || ranged):
		return errors.New("output-kind: depth scales each image by its own values: remove output-range, output-mean and output-std")
	case kind == Chroma && ranged:
		return errors.New("output-kind: chroma is a and b of Lab: scale them by output-std and output-mean, not by output-range")
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
