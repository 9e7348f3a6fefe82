package settings

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/torchherd/torchherd/torch"
)

// A Setting describes a setting of a model. Read, Validate, the JSON Schema, the flags' help and the tables in docs/ all
// use this description.
type Setting struct {
	Key  string // in model.yaml; the flag of the same name, if there is one, has the same meaning
	Help string // what it does, in Markdown
	form string // the values that it takes, in Markdown; empty for an int, a bool and an enumeration

	least, most int      // of an int
	words       []string // of an enumeration
	schema      string   // members of its JSON Schema; empty as for form

	field func(*Settings) any // returns a pointer to the field
}

// batchSizeKey is the key of MaxBatchSize.
const batchSizeKey = "max-batch-size"

// maxCount bounds numbers of images. A larger number is a slip.
const maxCount = 1 << 20

const (
	rangeForm  = "two different numbers"
	valuesForm = "a list of one number, or of one for each channel"
)

// table is in the order of the documentation.
var table = []Setting{
	{
		Key:    "size",
		Help:   "Size that images are resized to, `WIDTHxHEIGHT`. `keep`: each image keeps its own size, and only images of one size share a batch.",
		form:   "`WIDTHxHEIGHT` or `keep`",
		schema: `"anyOf": [{"const": "keep"}, {"$ref": "#/$defs/size"}]`,
		field:  func(s *Settings) any { return &s.Size },
	},
	{
		Key:  "max-side",
		Help: "With `size: keep`, larger images are shrunk until their longer side has this many pixels. 0: no limit.",
		most: MaxSide, field: func(s *Settings) any { return &s.MaxSide },
	},
	{
		Key:  "multiple-of",
		Help: "With `size: keep`, each side of the model's input is a multiple of this number; `fit` says how. 0: any side.",
		most: MaxSide, field: func(s *Settings) any { return &s.MultipleOf },
	},
	{
		Key:   "fit",
		Help:  "How an image becomes the model's size. `stretch`: resized, whatever its proportions. `pad`: resized to fit, or not at all with `size: keep`; the rest is its reflection. `crop`: resized to cover; the middle is used. `letterbox`: resized to fit; the rest is grey. The response is cropped to the image's part. `auto`: `pad` with `multiple-of`, else `stretch`.",
		words: words(fits...), field: func(s *Settings) any { return &s.Fit },
	},
	{
		Key:    "answer-size",
		Help:   "Size of responses. `model`: as the model makes them; `sent`: that of the image as it was sent, or its multiple if the model's output is a multiple of its input; or `WIDTHxHEIGHT`. A request can ask for another.",
		form:   "`model`, `sent` or `WIDTHxHEIGHT`",
		schema: `"anyOf": [{"enum": ["model", "sent"]}, {"$ref": "#/$defs/size"}]`,
		field:  func(s *Settings) any { return &s.AnswerSize },
	},
	{
		Key:  "tile",
		Help: "With `size: keep`, images with a longer side go through the model in square tiles with this side, and the results are joined. A multiple of `multiple-of`. 0: no tiles.",
		most: MaxSide, field: func(s *Settings) any { return &s.Tile },
	},
	{
		Key:  "overlap",
		Help: "How many pixels a tile extends beyond the middle of the seam to the next tile. Over so many pixels the results are blended. At most a quarter of `tile`.",
		most: MaxSide, field: func(s *Settings) any { return &s.Overlap },
	},
	{
		Key:    "warm-up",
		Help:   "With `size: keep`, sizes of images that the model is warmed up with; without one, " + fallbackWarmUp.String() + ". `all`: with each batch size, which the CPU doesn't need.",
		form:   "a list of sizes and `all`, such as `[512x384, 384x512]`",
		schema: `"anyOf": [{"const": "all"}, {"type": "array", "items": {"anyOf": [{"const": "all"}, {"$ref": "#/$defs/size"}]}}]`,
		field:  func(s *Settings) any { return &s.WarmUp },
	},
	{
		Key:   "resize-filter",
		Help:  "Resampling filter, with the same pixels as Pillow's. All but `nearest` antialias when they shrink an image.",
		words: words(torch.Bilinear, torch.Nearest, torch.Box, torch.Hamming, torch.Bicubic, torch.Lanczos),
		field: func(s *Settings) any { return &s.ResizeFilter },
	},
	{
		Key:   "jpeg-scale",
		Help:  "Decode a JPEG that is at least twice as large as `size` at 1/2, 1/4 or 1/8 of its size. This is faster but changes the pixels.",
		field: func(s *Settings) any { return &s.JPEGScale },
	},
	{
		Key:   "grayscale",
		Help:  "Treatment of grayscale images. `refuse`: the response is the error `need rgb image`; `rgb`: the image gets three equal channels.",
		words: words(grayscales...), field: func(s *Settings) any { return &s.Grayscale },
	},
	{
		Key:   "exif",
		Help:  "Treatment of the orientation in an image's EXIF data or, without one there, in its XMP. `apply`: the image is turned; `ignore`: it is used as stored. A TIFF is always turned: its orientation is a part of the format.",
		words: words(exifs...), field: func(s *Settings) any { return &s.EXIF },
	},
	{
		Key:   "color",
		Help:  "Treatment of the colour space that an image states by an ICC profile, or in a PNG by `cICP` or `gAMA` and `cHRM`. `convert`: the pixels are converted to sRGB; `ignore`: they are used as if they were sRGB.",
		words: words(colors...), field: func(s *Settings) any { return &s.Color },
	},
	{
		Key:    "alpha",
		Help:   "Treatment of transparency. `drop`: transparent pixels keep the colour beneath; `keep`: it is resized beside the image and put back into the result, if that is RGB and the response a PNG, WebP or AVIF; `over white`, or another colour: the image is put over the colour.",
		form:   "`drop`, `keep`, or `over` and a colour, such as `over white` or `over 00ff7f`",
		schema: `"type": "string", "pattern": "^(drop|keep|over (white|black|#?[0-9a-fA-F]{6}))$"`,
		field:  func(s *Settings) any { return &s.Alpha },
	},
	{
		Key:   "channels",
		Help:  "Order of the input's channels, and of an output with three. `gray`: the input has one channel, computed after the resize as by Pillow's `convert(\"L\")`, and an output with three is RGB. `lightness`: likewise, but L of Lab, divided by 100.",
		words: words(torch.RGB, torch.BGR, torch.Gray, torch.Lightness), field: func(s *Settings) any { return &s.Channels },
	},
	{
		Key:    "input-range",
		Help:   "Input values for the pixel values 0 and 255: a pixel v becomes low + v/255 * (high - low), before `mean` and `std`.",
		form:   rangeForm,
		schema: `"$ref": "#/$defs/range"`,
		field:  func(s *Settings) any { return &s.InputRange },
	},
	{
		Key:    "mean",
		Help:   "Subtracted from the input. One number applies to all channels; several are in the order of the tensor.",
		form:   valuesForm,
		schema: `"type": "array", "items": {"type": "number"}, "maxItems": 3`,
		field:  func(s *Settings) any { return &s.Mean },
	},
	{
		Key:    "std",
		Help:   "Divides the input, after `mean` is subtracted. One number applies to all channels; several are in the order of the tensor.",
		form:   valuesForm,
		schema: `"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "maxItems": 3`,
		field:  func(s *Settings) any { return &s.Std },
	},
	{
		Key:    "output",
		Help:   "Which tensor of the output to use, if it is a dict, a tuple or a list: a key, an index from 0, or several steps, such as `aux/1`. None is needed for the only one.",
		form:   "a key or an index, or several, separated by `/`",
		schema: `"type": ["string", "integer"], "minimum": 0`,
		field:  func(s *Settings) any { return &s.Output },
	},
	{
		Key:   "output-kind",
		Help:  "What the output is. `image`: gray, RGB or RGBA. `mask`: gray. `classes`: scores of up to 256 classes, or class numbers. `depth`: scaled by each image's least and greatest values. `alpha`: a mask that becomes the sent image's alpha. `chroma`: a and b of Lab, joined with the sent image's L. `luma`: Y of YCbCr, joined with the input's Cb and Cr.",
		words: words(outputKinds...), field: func(s *Settings) any { return &s.OutputKind },
	},
	{
		Key:   "output-activation",
		Help:  "Function of the output, before anything else. `softmax` is over the channels; if a mask has several, the last one is used.",
		words: words(activations...), field: func(s *Settings) any { return &s.Activation },
	},
	{
		Key:   "output-layout",
		Help:  "Order of the output's dimensions. `auto`: `nchw`, unless only the last dimension has a number of channels that the kind allows; for `classes` always `nchw`.",
		words: words(layouts...), field: func(s *Settings) any { return &s.Layout },
	},
	{
		Key:    "output-std",
		Help:   "Multiplies the output. One number applies to all channels; several are in the order of the tensor.",
		form:   valuesForm,
		schema: `"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "maxItems": 3`,
		field:  func(s *Settings) any { return &s.OutputStd },
	},
	{
		Key:    "output-mean",
		Help:   "Added to the output, after `output-std`. One number applies to all channels; several are in the order of the tensor.",
		form:   valuesForm,
		schema: `"type": "array", "items": {"type": "number"}, "maxItems": 3`,
		field:  func(s *Settings) any { return &s.OutputMean },
	},
	{
		Key:    "output-range",
		Help:   "Output values for the pixel values 0 and 255. Values outside are clamped, and NaN becomes 0.",
		form:   rangeForm,
		schema: `"$ref": "#/$defs/range"`,
		field:  func(s *Settings) any { return &s.OutputRange },
	},
	{
		Key:   "rounding",
		Help:  "How values become whole numbers. `floor`: fractions are truncated, as by torchvision's `to_pil_image`; `nearest`: halves up, as by `save_image`.",
		words: words(roundings...), field: func(s *Settings) any { return &s.Rounding },
	},
	{
		Key:    "palette",
		Help:   "Colours of `output-kind: classes`. `none`: gray, the class number. A PNG has a palette, and its pixels are the class numbers still. Classes without a colour are black.",
		form:   "`none`, `pascal`, `cityscapes`, or a list of colours, such as `[[0, 0, 0], [255, 0, 0]]`",
		schema: `"anyOf": [{"enum": ["none", "pascal", "cityscapes"]}, {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3}, "minItems": 1, "maxItems": 256}]`,
		field:  func(s *Settings) any { return &s.Palette },
	},
	{
		Key:    "inputs",
		Help:   "Parameters of `forward`, in their order: `image`, and [further inputs](#several-inputs), which are constants or come from the request.",
		form:   "a list, such as `[image, {mask: {channels: gray}}]`",
		schema: inputsSchema,
		field:  func(s *Settings) any { return &s.Inputs },
	},
	{
		Key:   "format",
		Help:  "Default response format. `auto`: `jpeg` for an `image`, `chroma` and `luma`, and `png` for the other kinds of output. A request can ask for another.",
		words: words(formats...), field: func(s *Settings) any { return &s.Format },
	},
	{
		Key:   "quality",
		Help:  "Default quality of JPEG and AVIF responses, 1 to 100. A request can ask for another.",
		least: 1, most: 100, field: func(s *Settings) any { return &s.Quality },
	},
	{
		Key:   "metadata",
		Help:  "What a response has beside its pixels. `none`: nothing; `color`: an ICC profile, of sRGB or, with `color: ignore`, the image's own; `all-but-location`: also the image's EXIF and XMP, without places, thumbnails and maker's notes, and with the orientation that the result has.",
		words: words(metadatas...), field: func(s *Settings) any { return &s.Metadata },
	},
	{
		Key:   "batching",
		Help:  "Whether images share a batch. `auto`: a model that mixes the images of a batch is served in batches of one, with a warning, or refused if `max-batch-size` asks for more; `require`: such a model is refused; `off`: batches of one.",
		words: words(batchings...), field: func(s *Settings) any { return &s.Batching },
	},
	{
		Key:   batchSizeKey,
		Help:  "Maximum number of images in a batch.",
		least: 1, most: maxCount, field: func(s *Settings) any { return &s.MaxBatchSize },
	},
	{
		Key:   "max-queue-size",
		Help:  "Maximum number of waiting images; more are refused. If it is less than `max-batch-size`, no batch can fill.",
		least: 1, most: maxCount, field: func(s *Settings) any { return &s.MaxQueueSize },
	},
	{
		Key:    "max-wait",
		Help:   "Maximum batching delay, counted from the arrival of the oldest image in the batch.",
		form:   "a duration, such as `20ms` or `1.5s`",
		schema: `"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+$"`,
		field:  func(s *Settings) any { return &s.MaxWait },
	},
	{
		Key:   "wait-policy",
		Help:  "When an incomplete batch waits. `adaptive`: only while another request is being received or decoded; `fixed`: always.",
		words: words(waitPolicies...), field: func(s *Settings) any { return &s.WaitPolicy },
	},
	{
		Key:   "precision",
		Help:  "Number format that a TorchScript model computes in: `fp32`, `bf16`, or on CUDA also `tf32` and `fp16`. An AOTInductor package has its own.",
		words: words(torch.FP32, torch.TF32, torch.BF16, torch.FP16), field: func(s *Settings) any { return &s.Precision },
	},
	{
		Key:    "device",
		Help:   "Device that the model runs on, or several, separated by commas: `cpu`, `cuda:N`, or `auto`, which is `cuda:0` if there is one and else `cpu`.",
		form:   "`auto`, `cpu`, `cuda:N`, or several of the last two as a text or a list",
		schema: `"anyOf": [{"const": "auto"}, {"$ref": "#/$defs/devices"}, {"type": "array", "items": {"$ref": "#/$defs/device"}, "minItems": 1, "uniqueItems": true}]`,
		field:  func(s *Settings) any { return &s.Device },
	},
	{
		Key:   "instances",
		Help:  "Number of copies of the model on each device. They run batches side by side.",
		least: 1, most: 1024, field: func(s *Settings) any { return &s.Instances },
	},
	{
		Key:  "threads",
		Help: "Maximum number of CPU threads for one forward pass. 0: all cores, divided among the instances, or one thread for a small model.",
		most: 1024, field: func(s *Settings) any { return &s.Threads },
	},
	{
		Key:   "cuda-graphs",
		Help:  "On CUDA, replay each batch size as a CUDA graph.",
		field: func(s *Settings) any { return &s.CUDAGraphs },
	},
	{
		Key:   "weight",
		Help:  "Share of the cores, relative to the weights of the other models.",
		least: 1, most: 1000, field: func(s *Settings) any { return &s.Weight },
	},
	{
		Key:    "versions",
		Help:   "Versions of the folder to serve: the latest, the latest few, or those listed.",
		form:   "`latest`, `latest 2` (or more), or a list, such as `[1, 3]`",
		schema: `"anyOf": [{"type": "string", "pattern": "^latest( [1-9][0-9]*)?$"}, {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}]`,
		field:  func(s *Settings) any { return &s.Versions },
	},
	{
		Key:    "digest",
		Help:   "SHA-256 that the model's file must have. Another file is not loaded.",
		form:   "`sha256:` and the sum that `sha256sum` prints",
		schema: `"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"`,
		field:  func(s *Settings) any { return &s.Digest },
	},
}

// All returns the descriptions of all settings. The caller must not change them.
func All() []Setting { return table }

// Default returns the default in the form that Read takes; empty: none.
func (s *Setting) Default() string {
	defaults := Default()
	return fmt.Sprint(reflect.ValueOf(s.field(&defaults)).Elem())
}

// PlainHelp returns the help without Markdown.
func (s *Setting) PlainHelp() string { return strings.ReplaceAll(s.Help, "`", "") }

// Values describes the values that the setting takes, in Markdown.
func (s *Setting) Values() string {
	switch s.field(&Settings{}).(type) {
	case *int:
		return fmt.Sprintf("%d to %d", s.least, s.most)
	case *bool:
		return "`true` or `false`"
	}
	if s.words != nil {
		last := len(s.words) - 1
		return "`" + strings.Join(s.words[:last], "`, `") + "` or `" + s.words[last] + "`"
	}
	return s.form
}
