package settings

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/torchherd/torchherd/torch"
)

const schemaPath = "../../../docs/model.schema.json"

// read returns the defaults with the settings of a file's text.
func read(text string) (Settings, error) {
	s := Default()
	if err := s.Read([]byte(text)); err != nil {
		return s, err
	}
	return s, s.Validate()
}

func TestRead(t *testing.T) {
	got, err := read(`# yaml-language-server: $schema=../../../docs/model.schema.json
size: keep
multiple-of: 8
max-side: 1024   # of the longer one
fit: pad
answer-size: sent
tile: 256
overlap: 16
resize-filter: lanczos
grayscale: rgb
exif: ignore
color: ignore
alpha: over 00ff7f
metadata: color
channels: gray
input-range: [-1, 1]
mean: [0.5]
std: [0.25]
output: 1
output-kind: classes
output-layout: nhwc
rounding: nearest
palette: [[0, 0, 0], [255, 128, 0]]
format: png
quality: 90
max-batch-size: 16
max-queue-size: 64
max-wait: 20ms
wait-policy: fixed
precision: bf16
device: [cuda:0, cuda:1]
instances: 2
threads: 3
cuda-graphs: true
warm-up: [64x48, 128x96]
weight: 3
versions: latest 2
digest: sha256:` + strings.Repeat("0a", 32) + "\n")
	want := Settings{
		Size: Size{}, MultipleOf: 8, MaxSide: 1024, Fit: Pad, AnswerSize: AnswerSize{Sent: true}, Tile: 256, Overlap: 16, ResizeFilter: torch.Lanczos, Grayscale: ToRGB, EXIF: Ignore, Color: IgnoreColor,
		Alpha: AlphaMode{Flat: true, Over: [3]uint8{0, 255, 127}}, Metadata: ColorMetadata,
		Channels: torch.Gray, InputRange: Range{-1, 1}, OutputRange: Range{0, 1}, Mean: []float64{0.5}, Std: []float64{0.25},
		Output: "1", OutputKind: Classes, Activation: NoActivation, Layout: NHWC, Rounding: RoundNearest, Palette: Palette{Colours: [][3]uint8{{}, {255, 128, 0}}},
		Format: PNG, Quality: 90, Batching: BatchIfSafe, MaxBatchSize: 16, BatchSizeGiven: true, MaxQueueSize: 64, MaxWait: 20 * time.Millisecond, WaitPolicy: Fixed,
		Precision: torch.BF16, Device: devices(t, "cuda:0", "cuda:1"), Instances: 2, Threads: 3, CUDAGraphs: true,
		WarmUp: WarmUp{Sizes: []Size{{64, 48}, {128, 96}}}, Weight: 3, Versions: Policy{Latest: 2}, Digest: Digest("sha256:" + strings.Repeat("0a", 32)),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func devices(t *testing.T, names ...string) Devices {
	t.Helper()
	var d Devices
	for _, name := range names {
		device, err := torch.NewDevice(name)
		if err != nil {
			t.Fatal(err)
		}
		d = append(d, device)
	}
	return d
}

// Read leaves settings that are not in the text unchanged, so that several texts can be read in turn.
func TestReadOver(t *testing.T) {
	s := Default()
	for _, text := range []string{"", "# nothing\n", "mean: [0.1, 0.2, 0.3]\nquality: 50", "quality: 60", "versions: [7, 2, 7]", "device: cuda"} {
		if err := s.Read([]byte(text)); err != nil {
			t.Fatal(text, err)
		}
	}
	want := Default()
	want.Mean, want.Quality, want.Versions, want.Device = []float64{0.1, 0.2, 0.3}, 60, Policy{Numbers: []int{2, 7}}, devices(t, "cuda:0")
	if !reflect.DeepEqual(s, want) {
		t.Errorf("%+v", s)
	}
}

// Invalid texts and a part of the error for each.
var refused = []struct {
	text, want string
	rule       bool // the text breaks a rule that the schema does not express
}{
	{text: "siez: 64x64", want: `line 1: unknown setting "siez"; did you mean size?`},
	{text: "\nmax_batch_size: 2", want: `line 2: unknown setting "max_batch_size"; did you mean max-batch-size?`},
	{text: "frame: red", want: `unknown setting "frame"; known are alpha, answer-size, batching, channels, color, cuda-graphs, device,`},
	{text: "size: large", want: `line 1: size: invalid size "large": use WIDTHxHEIGHT, such as 228x228`},
	{text: "size: [1, 2]", want: "line 1: size"},
	{text: "quality: high", want: "line 1: quality"},
	{text: "quality: 0", want: "quality is 0 and must be 1 to 100"},
	{text: "quality: 5\nquality: 6", want: "quality"},
	{text: "max-wait: 5", want: `line 1: max-wait: invalid duration "5": use a number with a unit, such as 20ms`},
	{text: "max-wait: -5s", want: "max-wait is -5s and must not be negative"},
	{text: "max-batch-size: 0", want: "max-batch-size is 0 and must be 1 to"},
	{text: "max-queue-size: -1", want: "max-queue-size is -1"},
	{text: "resize-filter: cubic", want: `"cubic" is not one of bilinear, nearest, box, hamming, bicubic, lanczos`},
	{text: "grayscale: maybe", want: `"maybe" is not one of refuse, rgb`},
	{text: "exif: no", want: "is not one of apply, ignore"},
	{text: "channels: cmyk", want: `"cmyk" is not one of rgb, bgr, gray, lightness`},
	{text: "format: gif", want: `"gif" is not one of auto, jpeg, png, webp, avif`},
	{text: "precision: int8", want: `"int8" is not one of fp32, tf32, bf16, fp16`},
	{text: "wait-policy: never", want: `"never" is not one of adaptive, fixed`},
	{text: "input-range: [1]", want: "line 1: input-range: invalid range [1]: use two different numbers"},
	{text: "input-range: [0, .inf]", want: "invalid range [0 +Inf]"},
	{text: "output-range: [1, 1]", want: "line 1: output-range: invalid range [1 1]: use two different numbers"},
	{text: "mean: [1, 2]", want: "mean is [1 2] and must be one number, or one for each channel (3)", rule: true},
	{text: "channels: gray\nstd: [1, 2, 3]", want: "one for each channel (1)", rule: true},
	{text: "std: [0]", want: "std is [0] and must be positive"},
	{text: "channels: lightness\nstd: [1, 2, 3]", want: "one for each channel (1)", rule: true},
	{text: "output: [1]", want: "line 1: output"},
	{text: "output-kind: text", want: `"text" is not one of image, mask, classes, depth, alpha, chroma, luma`},
	{text: "output-activation: relu", want: `"relu" is not one of none, sigmoid, softmax`},
	{text: "output-layout: chw", want: `"chw" is not one of auto, nchw, nhwc`},
	{text: "rounding: up", want: `"up" is not one of floor, nearest`},
	{text: "output-mean: [1, 2]", want: "output-mean is [1 2] and must be one number, or one for each channel (3)", rule: true},
	{text: "output-kind: chroma\noutput-std: [1, 2, 3]", want: "one for each channel (2)", rule: true},
	{text: "output-std: [-1]", want: "output-std is [-1] and must be positive"},
	{text: "palette: ade20k", want: "invalid palette: use none, pascal, cityscapes, or a list"},
	{text: "palette: [[1, 2]]", want: "invalid palette"},
	{text: "palette: [[1, 2, 256]]", want: "invalid palette"},
	{text: "palette: pascal", want: "palette needs output-kind: classes, but output-kind is image", rule: true},
	{text: "output-kind: alpha\nformat: jpeg", want: "alpha needs format: png, webp or avif", rule: true},
	{text: "output-kind: classes\noutput-activation: softmax", want: "classes takes the output as it is", rule: true},
	{text: "output-kind: depth\noutput-range: [0, 10]", want: "depth scales each image by its own values", rule: true},
	{text: "output-kind: chroma\noutput-range: [0, 10]", want: "not by output-range", rule: true},
	{text: "device: tpu", want: `unknown device "tpu": use auto, cpu, cuda:N`},
	{text: "device: cuda:128", want: `unknown device "cuda:128"`},
	{text: "device: [auto, cpu]", want: `unknown device "auto"`},
	{text: "device: [cpu, cpu]", want: "duplicate device cpu: for more copies on one device set instances"},
	{text: "device: [cuda, cuda:0]", want: "duplicate device cuda:0", rule: true},
	{text: "device: cpu,cpu", want: "duplicate device cpu", rule: true},
	{text: "device: []", want: "no devices: use auto, cpu or cuda:N"},
	{text: "instances: 0", want: "instances is 0 and must be 1 to 1024"},
	{text: "threads: -1", want: "threads is -1"},
	{text: "weight: 0", want: "weight is 0"},
	{text: "warm-up: [64x64]", want: "the sizes of warm-up need size: keep, but size is 228x228", rule: true},
	{text: "size: keep\nwarm-up: [keep]", want: "use sizes, such as 256x256"},
	{text: "multiple-of: 8", want: "need size: keep", rule: true},
	{text: "size: keep\nmultiple-of: 32\nmax-side: 16", want: "max-side is 16 and must be at least multiple-of, which is 32", rule: true},
	{text: "color: srgb", want: `"srgb" is not one of convert, ignore`},
	{text: "alpha: over", want: `invalid alpha "over": use drop, keep, or over and a colour, such as over white or over 00ff7f`},
	{text: "alpha: over red", want: "invalid alpha"},
	{text: "alpha: over fffff", want: "invalid alpha"},
	{text: "alpha: keep\noutput-kind: mask", want: "alpha: keep needs output-kind: image or luma, but output-kind is mask", rule: true},
	{text: "metadata: all", want: `"all" is not one of none, color, all-but-location`},
	{text: "fit: squeeze", want: `"squeeze" is not one of auto, stretch, pad, crop, letterbox`},
	{text: "size: keep\nfit: crop", want: "fit: crop needs a size, but size is keep", rule: true},
	{text: "fit: crop\noutput-kind: alpha", want: "output-kind: alpha needs the whole image: remove fit: crop", rule: true},
	{text: "answer-size: big", want: `invalid size of responses "big": use model, sent, or WIDTHxHEIGHT`},
	{text: "answer-size: keep", want: `invalid size of responses "keep"`},
	{text: "tile: 512", want: "tile needs size: keep, but size is 228x228", rule: true},
	{text: "size: keep\nmultiple-of: 32\ntile: 500", want: "tile is 500 and must be a multiple of multiple-of, which is 32", rule: true},
	{text: "size: keep\nmultiple-of: 32\ntile: 512\nfit: stretch", want: "tile needs fit: pad, but fit is stretch", rule: true},
	{text: "size: keep\nmax-side: 512\ntile: 512", want: "max-side is 512, so no image is larger than tile, which is 512", rule: true},
	{text: "size: keep\ntile: 512\noutput-kind: depth", want: "depth scales each image by its own values, which tiles don't have in common: remove tile", rule: true},
	{text: "size: keep\ntile: 64", want: "overlap is 32 and must be at most 16 for tile: 64 and multiple-of: 0", rule: true},
	{text: "size: keep\ntile: 192\nmultiple-of: 64\noverlap: 48", want: "overlap is 48 and must be at most 32", rule: true},
	{text: "size: keep\ntile: 64\nmultiple-of: 64\noverlap: 1", want: "overlap is 1 and must be at most 0", rule: true},
	{text: "versions: newest", want: "invalid versions: use latest, latest 2 (or more), or a list"},
	{text: "versions: latest 0", want: "invalid versions"},
	{text: "versions: [0]", want: "invalid versions"},
	{text: "digest: sha256:12", want: `invalid digest "sha256:12": use sha256: and the sum that sha256sum prints`},
	{text: "- size", want: "not a map of settings to values"},
	{text: "size: [", want: "not YAML"},
	{text: "size: keep\n---\nsize: keep", want: "2 documents"},
}

func TestRefused(t *testing.T) {
	for _, test := range refused {
		if _, err := read(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v instead of %q", test.text, err, test.want)
		}
	}
}

// Each type reads what it writes, so that a default in the documentation is valid in a file.
func TestValuesReadTheTextThatTheyWrite(t *testing.T) {
	for _, text := range []string{
		"size: 64x48", "size: keep", "resize-filter: lanczos", "grayscale: rgb", "exif: ignore", "channels: bgr", "input-range: [-1, 0.5]",
		"output: aux/1", "output-kind: luma", "output-activation: sigmoid", "output-layout: nchw", "rounding: nearest", "palette: cityscapes",
		"palette: [[0, 0, 0], [1, 2, 3]]", "format: webp", "max-wait: 1m30s", "wait-policy: fixed", "precision: bf16", "device: auto", "device: cpu,cuda:3",
		"fit: letterbox", "answer-size: sent", "answer-size: model", "answer-size: 640x480", "versions: latest", "versions: latest 2", "versions: [1, 3]", "digest: sha256:" + strings.Repeat("0a", 32),
	} {
		var s Settings
		if err := s.Read([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		key, value, _ := strings.Cut(text, ": ")
		at := slices.IndexFunc(All(), func(each Setting) bool { return each.Key == key })
		if got := fmt.Sprint(reflect.ValueOf(All()[at].field(&s)).Elem()); got != value {
			t.Errorf("%s is written as %s", text, got)
		}
	}
	var s Settings
	for _, setting := range All() {
		if text := setting.Default(); text != "" {
			if err := s.Read([]byte(setting.Key + ": " + text)); err != nil {
				t.Error(err)
			}
		}
	}
	s.BatchSizeGiven = false
	if s.Mean, s.Std, s.WarmUp, s.OutputMean, s.OutputStd = nil, nil, (WarmUp{}), nil, nil; !reflect.DeepEqual(s, Default()) { // instead of empty lists
		t.Errorf("the defaults are read as %+v", s)
	}
}

// The descriptions list all values of torch's enumerations.
func TestEnumerationsAreComplete(t *testing.T) {
	for key, values := range map[string][]string{
		"resize-filter": named[torch.Filter](), "channels": named[torch.Channels](), "precision": named[torch.Precision](),
	} {
		at := slices.IndexFunc(All(), func(each Setting) bool { return each.Key == key })
		listed := slices.Sorted(slices.Values(All()[at].words))
		if slices.Sort(values); !slices.Equal(listed, values) {
			t.Errorf("%s lists %v instead of %v", key, listed, values)
		}
	}
}

// named returns the names of an enumeration's values from 0 on. A number without a name is written as "Filter(6)".
func named[T ~int32]() []string {
	var names []string
	for value := T(0); ; value++ {
		name := fmt.Sprint(value)
		if strings.Contains(name, "(") {
			return names
		}
		names = append(names, name)
	}
}

func TestWarmUpSizes(t *testing.T) {
	for text, want := range map[string][]Size{
		"size: keep\ntile: 128\nwarm-up: [64x48, 128x128]": {{128, 128}, {64, 48}},
		"size: 64x48": {{64, 48}}, "size: keep\nwarm-up: [64x48, 128x96]": {{64, 48}, {128, 96}}, "size: keep": {{256, 256}},
	} {
		s, err := read(text)
		if sizes, guessed := s.WarmUpSizes(); err != nil || !slices.Equal(sizes, want) || guessed != (text == "size: keep") {
			t.Errorf("%q: %v, guessed %v, %v", text, sizes, guessed, err)
		}
	}
}

func TestTensorValues(t *testing.T) {
	s := Default()
	ones := [3]float64{1, 1, 1}
	zeroToOne := torch.Range{Low: 0, High: 1}
	if got, want := s.TensorValues(), (torch.Values{Input: zeroToOne, Output: zeroToOne, Std: ones, OutputStd: ones}); got != want {
		t.Errorf("defaults: %+v", got)
	}
	s, err := read("channels: bgr\ninput-range: [-1, 1]\noutput-range: [0, 255]\nmean: [0.5]\nstd: [1, 2, 3]")
	want := torch.Values{
		Channels: torch.BGR, Input: torch.Range{Low: -1, High: 1}, Output: torch.Range{Low: 0, High: 255},
		Mean: [3]float64{0.5, 0.5, 0.5}, Std: [3]float64{1, 2, 3}, OutputStd: ones,
	}
	if got := s.TensorValues(); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOutputValues(t *testing.T) {
	for text, change := range map[string]func(*torch.Values){
		"output: aux/1\noutput-kind: alpha\noutput-activation: softmax": func(v *torch.Values) {
			v.Path, v.Kind, v.Activation = "aux/1", torch.OutputMask, torch.Softmax
		},
		"output-kind: luma\noutput-activation: sigmoid\nrounding: nearest": func(v *torch.Values) {
			v.Kind, v.Activation, v.Rounding = torch.OutputMask, torch.Sigmoid, torch.RoundNearest
		},
		"output-kind: mask\noutput-layout: nhwc":    func(v *torch.Values) { v.Kind, v.Layout = torch.OutputMask, torch.NHWC },
		"output-kind: classes\noutput-layout: nchw": func(v *torch.Values) { v.Kind, v.Layout = torch.OutputClasses, torch.NCHW },
		"output-kind: depth":                        func(v *torch.Values) { v.Kind = torch.OutputDepth },
		"output-mean: [0.5]\noutput-std: [1, 2, 3]": func(v *torch.Values) { v.OutputMean, v.OutputStd = [3]float64{0.5, 0.5, 0.5}, [3]float64{1, 2, 3} },
		"output-kind: chroma\noutput-std: [110, 100]": func(v *torch.Values) {
			v.Kind, v.OutputStd = torch.OutputChroma, [3]float64{110, 100, 1}
		},
	} {
		s, err := read(text)
		defaults := Default()
		want := defaults.TensorValues()
		change(&want)
		if got := s.TensorValues(); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// The default format holds what the output is.
func TestResponseFormat(t *testing.T) {
	for text, want := range map[string]Format{
		"": JPEG, "output-kind: mask": PNG, "output-kind: classes": PNG, "output-kind: depth": PNG, "output-kind: alpha": PNG,
		"output-kind: chroma": JPEG, "output-kind: luma": JPEG, "output-kind: mask\nformat: jpeg": JPEG, "format: webp": WebP, "format: auto": JPEG,
	} {
		if s, err := read(text); err != nil || s.ResponseFormat() != want {
			t.Errorf("%q: %v, %v", text, s.ResponseFormat(), err)
		}
	}
}

// The first colours of the VOC development kit's README, and the last.
func TestPascalPalette(t *testing.T) {
	s, err := read("output-kind: classes\npalette: pascal")
	want := [][3]uint8{{0, 0, 0}, {128, 0, 0}, {0, 128, 0}, {128, 128, 0}, {0, 0, 128}, {128, 0, 128}, {0, 128, 128}, {128, 128, 128}, {64, 0, 0}}
	if err != nil || !slices.Equal(s.Palette.Colours[:len(want)], want) || s.Palette.Colours[20] != [3]uint8{0, 64, 128} || s.Palette.Colours[255] != [3]uint8{224, 224, 192} {
		t.Errorf("%v, %v", s.Palette.Colours, err)
	}
}

// The schema that editors use has the same settings, defaults and limits.
func TestSchema(t *testing.T) {
	compiler := jsonschema.NewCompiler()
	schema, err := compiler.Compile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Properties map[string]struct {
			Description string
			Default     any
		}
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var keys []string
	defaults := map[string]any{}
	for key, property := range document.Properties {
		keys = append(keys, key)
		if property.Description == "" {
			t.Errorf("%s: the schema has no description of it", key)
		}
		if property.Default != nil {
			defaults[key] = property.Default
		}
	}
	slices.Sort(keys)
	if !slices.Equal(keys, Keys()) {
		t.Errorf("the schema has the keys %v instead of %v", keys, Keys())
	}
	if err := schema.Validate(defaults); err != nil {
		t.Error("the schema rejects its own defaults:", err)
	}
	written, err := yaml.Marshal(defaults)
	if err != nil {
		t.Fatal(err)
	}
	s := Settings{Mean: []float64{9}, Std: []float64{9}, WarmUp: WarmUp{Sizes: []Size{{9, 9}}}}
	if err := s.Read(written); err != nil {
		t.Fatal(err)
	}
	if len(s.Mean)+len(s.Std)+len(s.WarmUp.Sizes) > 0 {
		t.Errorf("the schema's defaults of mean, std and warm-up are not empty: %+v", s)
	}
	s.BatchSizeGiven = false
	s.Mean, s.Std, s.WarmUp, s.OutputMean, s.OutputStd = nil, nil, WarmUp{}, nil, nil // as Default has them
	if !reflect.DeepEqual(s, Default()) {
		t.Errorf("the schema's defaults are %+v", s)
	}
	for _, test := range refused {
		var value any
		if yaml.Unmarshal([]byte(test.text), &value) != nil || strings.Contains(test.text, "---") {
			continue // not a YAML document, which no schema is needed to see
		}
		if err := schema.Validate(value); (err == nil) != test.rule {
			t.Errorf("%q: the schema returns %v", test.text, err)
		}
	}
}
