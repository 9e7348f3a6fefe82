package settings

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaPath = "../../../docs/model.schema.json"

// read is what a file's text makes of the defaults.
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
resize-filter: lanczos
grayscale: rgb
exif: ignore
channels: gray
input-range: [-1, 1]
output-range: [0, 255]
mean: [0.5]
std: [0.25]
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
		Size: Size{}, MultipleOf: 8, MaxSide: 1024, ResizeFilter: "lanczos", Grayscale: ToRGB, EXIF: Ignore,
		Channels: Gray, InputRange: []float64{-1, 1}, OutputRange: []float64{0, 255}, Mean: []float64{0.5}, Std: []float64{0.25},
		Format: "png", Quality: 90, MaxBatchSize: 16, MaxQueueSize: 64, MaxWait: 20 * time.Millisecond, WaitPolicy: Fixed,
		Precision: "bf16", Device: Devices{"cuda:0", "cuda:1"}, Instances: 2, Threads: 3, CUDAGraphs: true,
		WarmUp: []Size{{64, 48}, {128, 96}}, Weight: 3, Versions: Policy{Latest: 2}, Digest: Digest("sha256:" + strings.Repeat("0a", 32)),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// What a text doesn't say stays as it is, so that texts can be read over each other.
func TestReadOver(t *testing.T) {
	s := Default()
	for _, text := range []string{"", "# nothing\n", "mean: [0.1, 0.2, 0.3]\nquality: 50", "quality: 60", "versions: [7, 2, 7]", "device: cuda"} {
		if err := s.Read([]byte(text)); err != nil {
			t.Fatal(text, err)
		}
	}
	want := Default()
	want.Mean, want.Quality, want.Versions, want.Device = []float64{0.1, 0.2, 0.3}, 60, Policy{Numbers: []int{2, 7}}, Devices{"cuda"}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("%+v", s)
	}
}

// What is refused, and by which words; and whether an editor with the schema marks it too.
var refused = []struct {
	text, want string
	rule       bool // of two settings together, or of numbers' order, which the schema doesn't have
}{
	{text: "siez: 64x64", want: `line 1: there is no setting "siez"; is size meant?`},
	{text: "\nmax_batch_size: 2", want: `line 2: there is no setting "max_batch_size"; is max-batch-size meant?`},
	{text: "colour: red", want: "; there are: channels, cuda-graphs, device,"},
	{text: "size: large", want: `line 1: size: "large" is no size; write it like 228x228`},
	{text: "size: [1, 2]", want: "line 1: size"},
	{text: "quality: high", want: "line 1: quality"},
	{text: "quality: 0", want: "quality is 0 and must be 1 to 100"},
	{text: "quality: 5\nquality: 6", want: "quality"},
	{text: "max-wait: 5", want: "line 1: max-wait: write a number with a unit, such as 20ms"},
	{text: "max-wait: -5s", want: "max-wait is -5s and must not be negative"},
	{text: "max-batch-size: 0", want: "max-batch-size is 0 and must be 1 to"},
	{text: "max-queue-size: -1", want: "max-queue-size is -1"},
	{text: "resize-filter: cubic", want: `"cubic" isn't one of bilinear, nearest, box, hamming, bicubic, lanczos`},
	{text: "grayscale: maybe", want: `"maybe" isn't one of refuse, rgb`},
	{text: "exif: no", want: "isn't one of apply, ignore"},
	{text: "channels: cmyk", want: `"cmyk" isn't one of rgb, bgr, gray`},
	{text: "format: gif", want: `"gif" isn't one of jpeg, png, webp`},
	{text: "precision: int8", want: `"int8" isn't one of fp32, tf32, bf16, fp16`},
	{text: "wait-policy: never", want: `"never" isn't one of adaptive, fixed`},
	{text: "input-range: [1]", want: "input-range is [1] and must be two different numbers"},
	{text: "output-range: [1, 1]", want: "output-range is [1 1] and must be two different numbers"},
	{text: "mean: [1, 2]", want: "mean is [1 2] and must be one number, or one for each channel (3)", rule: true},
	{text: "channels: gray\nstd: [1, 2, 3]", want: "one for each channel (1)", rule: true},
	{text: "std: [0]", want: "std is [0] and must be above 0"},
	{text: "device: tpu", want: `"tpu" isn't a device; write auto, cpu, cuda:N`},
	{text: "device: cuda:128", want: `"cuda:128" isn't a device`},
	{text: "device: [auto, cpu]", want: `"auto" isn't a device`},
	{text: "device: [cpu, cpu]", want: "cpu stands there twice; for more copies on one device set instances"},
	{text: "device: []", want: "there is no device"},
	{text: "instances: 0", want: "instances is 0 and must be 1 to 1024"},
	{text: "threads: -1", want: "threads is -1"},
	{text: "weight: 0", want: "weight is 0"},
	{text: "warm-up: [64x64]", want: "warm-up are for size: keep, and the size is 228x228", rule: true},
	{text: "size: keep\nwarm-up: [keep]", want: "and not keep"},
	{text: "multiple-of: 8", want: "for size: keep", rule: true},
	{text: "size: keep\nmultiple-of: 32\nmax-side: 16", want: "no side up to that is a multiple of 32", rule: true},
	{text: "versions: newest", want: "write latest, latest 2 (or more), or a list of versions"},
	{text: "versions: latest 0", want: "write latest"},
	{text: "versions: [0]", want: "write latest"},
	{text: "digest: sha256:12", want: `"sha256:12" is no digest; write sha256: and what sha256sum prints`},
	{text: "- size", want: "not a map from settings to values"},
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
			t.Errorf("%s: the schema doesn't describe it", key)
		}
		if property.Default != nil {
			defaults[key] = property.Default
		}
	}
	slices.Sort(keys)
	if !slices.Equal(keys, Keys()) {
		t.Errorf("the schema has %v, and the settings are %v", keys, Keys())
	}
	if err := schema.Validate(defaults); err != nil {
		t.Error("its defaults:", err)
	}
	written, err := yaml.Marshal(defaults)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing but the schema's defaults.
	s := Settings{Mean: []float64{9}, Std: []float64{9}, WarmUp: []Size{{9, 9}}}
	if err := s.Read(written); err != nil {
		t.Fatal(err)
	}
	if len(s.Mean)+len(s.Std)+len(s.WarmUp) > 0 {
		t.Errorf("the schema's defaults of mean, std and warm-up aren't empty: %+v", s)
	}
	s.Mean, s.Std, s.WarmUp = nil, nil, nil // as Default has them
	if !reflect.DeepEqual(s, Default()) {
		t.Errorf("the schema's defaults are %+v", s)
	}
	for _, test := range refused {
		var value any
		if yaml.Unmarshal([]byte(test.text), &value) != nil || strings.Contains(test.text, "---") {
			continue // an editor marks what is no YAML by itself
		}
		if err := schema.Validate(value); (err == nil) != test.rule {
			t.Errorf("%q: the schema says %v", test.text, err)
		}
	}
}
