package torch_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

func TestChannelsNames(t *testing.T) {
	for name, want := range map[string]torch.Channels{"rgb": torch.RGB, "bgr": torch.BGR, "gray": torch.Gray} {
		if c, err := torch.NewChannels(name); err != nil || c != want || c.String() != name {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	_, err := torch.NewChannels("cmyk")
	expectKind(t, err, torch.ErrInvalidArgument)
}

// allValues returns settings of each kind, alone and combined.
func allValues() map[string]torch.Values {
	return map[string]torch.Values{
		"plain":        {},
		"bgr":          {Channels: torch.BGR},
		"range":        {Input: torch.Range{Low: -1, High: 1}, Output: torch.Range{Low: -1, High: 1}},
		"input alone":  {Input: torch.Range{Low: 0, High: 255}},
		"output alone": {Output: torch.Range{Low: 0.25, High: 0.75}},
		"inverted":     {Input: torch.Range{Low: 1, High: 0}},
		"imagenet":     {Mean: [3]float64{0.485, 0.456, 0.406}, Std: [3]float64{0.229, 0.224, 0.225}},
		"mean alone":   {Mean: [3]float64{0.5, 0, 0}},
		"std alone":    {Std: [3]float64{1, 2, 4}},
		"everything": {
			Channels: torch.BGR, Input: torch.Range{Low: -2, High: 3}, Output: torch.Range{Low: -4, High: 5},
			Mean: [3]float64{0.1, 0.2, 0.3}, Std: [3]float64{0.5, 0.6, 0.7},
		},
	}
}

// expected returns the output of the identity for an RGB pixel, computed from the definition of Values in float32. The
// conversions prevent the compiler from fusing two operations.
func expected(v torch.Values, rgb []byte) [3]byte {
	input, output, std := v.Input, v.Output, v.Std
	if input == (torch.Range{}) {
		input = torch.Range{Low: 0, High: 1}
	}
	if output == (torch.Range{}) {
		output = torch.Range{Low: 0, High: 1}
	}
	if std == ([3]float64{}) {
		std = [3]float64{1, 1, 1}
	}
	var out [3]byte
	for i := range out {
		c := i // the tensor's channel
		if v.Channels == torch.BGR {
			c = 2 - i
		}
		x := float32(rgb[i]) / 255
		x = float32(x*(float32(input.High)-float32(input.Low))) + float32(input.Low)
		x = (x - float32(v.Mean[c])) / float32(std[c])
		y := (x - float32(output.Low)) / (float32(output.High) - float32(output.Low))
		out[i] = byte(min(max(y, 0), 1) * 255)
	}
	return out
}

func TestValues(t *testing.T) {
	for name, values := range allValues() {
		t.Run(name, func(t *testing.T) {
			m, err := torch.Load(goldens.Path("modules/identity.pt"), torch.Options{Values: values})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = m.Close() }()
			for _, size := range [][3]int{{1, 1, 1}, {3, 5, 7}, {2, 31, 33}} {
				batch := images(size[0], size[1], size[2])
				got, err := forward(m, batch, nil)
				if err != nil {
					t.Fatal(err)
				}
				for i, item := range got.Items {
					for at := 0; at < len(item); at += 3 {
						if want := expected(values, batch.Items[i][at:at+3]); !slices.Equal(item[at:at+3], want[:]) {
							t.Fatalf("%v of %v: pixel %d of image %d is %v instead of %v", batch.Items[i][at:at+3], size, at/3, i, item[at:at+3], want)
						}
					}
				}
			}
		})
	}
}

// The output of gray.pt has one channel, for any order of input channels, and a range of its own.
func TestGrayOutput(t *testing.T) {
	m, err := torch.Load(goldens.Path("modules/gray.pt"), torch.Options{Values: torch.Values{Channels: torch.BGR, Output: torch.Range{Low: 0, High: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	got, err := forward(m, torch.Images{Height: 1, Width: 2, Channels: 3, Items: [][]byte{{255, 255, 255, 0, 0, 0}}}, nil)
	if err != nil || got.Channels != 1 || !slices.Equal(got.Items[0], []byte{127, 0}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// The input of a model with one channel equals Pillow's convert("L") in every pixel.
func TestGrayEqualsPillow(t *testing.T) {
	golden := goldens.Load(t).Gray
	noise := goldens.Noise(golden.Seed, golden.Width*golden.Height*3)
	m, err := torch.Load(goldens.Path("modules/identity.pt"), torch.Options{Values: torch.Values{Channels: torch.Gray}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	batch := torch.Images{Height: golden.Height, Width: golden.Width, Channels: 3, Items: [][]byte{noise, noise}}
	got, err := forward(m, batch, nil)
	if err != nil || got.Channels != 1 {
		t.Fatalf("%d channels, %v", got.Channels, err)
	}
	for i, item := range got.Items {
		if sum := sha256.Sum256(item); hex.EncodeToString(sum[:]) != golden.Output {
			t.Errorf("image %d differs from Pillow's", i)
		}
	}
}

func TestGrayWithMeanAndStd(t *testing.T) {
	values := torch.Values{Channels: torch.Gray, Mean: [3]float64{0.5}, Std: [3]float64{0.5}, Output: torch.Range{Low: -1, High: 1}}
	m, err := torch.Load(goldens.Path("modules/gray.pt"), torch.Options{Values: values})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	for level := range 256 {
		gray := []byte{byte(level), byte(level), byte(level)}
		got, err := forward(m, torch.Images{Height: 1, Width: 1, Channels: 3, Items: [][]byte{gray}}, nil)
		if want := expected(values, gray)[0]; err != nil || got.Channels != 1 || got.Items[0][0] != want {
			t.Errorf("%d: %+v instead of %d, %v", level, got, want, err)
		}
	}
}

// CheckFinite converts its image by the module's Values, as ForwardImages does.
func TestCheckFiniteAppliesValues(t *testing.T) {
	white := torch.Images{Height: 1, Width: 1, Channels: 3, Items: [][]byte{{255, 255, 255}}}
	for high, want := range map[float64]error{1: nil, 0: torch.ErrForward} { // with Input up to 0, fails_on_black gets 0 for white
		m, err := torch.Load(goldens.Path("modules/fails_on_black.pt"), torch.Options{Values: torch.Values{Input: torch.Range{Low: -1, High: high}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.CheckFinite(white); !errors.Is(err, want) {
			t.Errorf("white as %g: %v instead of %v", high, err, want)
		}
		_ = m.Close()
	}
	expectKind(t, load(t, "nan.pt").CheckFinite(white), torch.ErrOutput)
}

func TestInvalidValues(t *testing.T) {
	for name, values := range map[string]torch.Values{
		"channels":       {Channels: 4},
		"empty input":    {Input: torch.Range{Low: 1, High: 1}},
		"empty output":   {Output: torch.Range{Low: -1, High: -1}},
		"infinite input": {Input: torch.Range{Low: 0, High: math.Inf(1)}},
		"NaN output":     {Output: torch.Range{Low: math.NaN(), High: 1}},
		"too wide":       {Input: torch.Range{Low: -3e38, High: 3e38}},
		"no float32":     {Input: torch.Range{Low: 0, High: 1e300}},
		"same float32":   {Input: torch.Range{Low: 1, High: 1 + 1e-12}},
		"mean":           {Mean: [3]float64{0, math.NaN(), 0}},
		"zero std":       {Std: [3]float64{1, 0, 1}},
		"negative std":   {Std: [3]float64{1, 1, -1}},
		"infinite std":   {Std: [3]float64{1, 1, math.Inf(1)}},
		"kind":           {Kind: 5},
		"activation":     {Activation: 3},
		"layout":         {Layout: 3},
		"rounding":       {Rounding: 2},
		"output mean":    {OutputMean: [3]float64{math.NaN(), 0, 0}},
		"output std":     {OutputStd: [3]float64{1, -1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := torch.Load(goldens.Path("modules/identity.pt"), torch.Options{Values: values})
			expectKind(t, err, torch.ErrInvalidArgument)
		})
	}
}

// A package states the shape of its input tensor, not of the image.
func TestPackageWithValues(t *testing.T) {
	loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{})
	gray := loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{Values: torch.Values{Channels: torch.Gray}})
	_, err := forward(gray, images(1, packageHeight, packageWidth), nil)
	expectKind(t, err, torch.ErrShape)
	stated := goldens.Package(t, func(records map[string][]byte) {
		records["archive/extra/torchherd.json"] = []byte(`{"input": [1, 24, 32], "batch": [1, 4]}`)
	})
	// The record states one channel, so the batch reaches the package, which needs three.
	_, err = forward(loadPackage(t, stated, torch.Options{Values: torch.Values{Channels: torch.Gray}}), images(1, packageHeight, packageWidth), nil)
	expectKind(t, err, torch.ErrForward)

	values := torch.Values{Channels: torch.BGR, Mean: [3]float64{0.5, 0.25, 0}, Output: torch.Range{Low: 0, High: 1.5}}
	m := loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{Values: values})
	reference, err := torch.Load(goldens.Path("modules/negate.pt"), torch.Options{Values: values})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reference.Close() }()
	expectSame(t, "negate.pt2", m, reference, images(3, packageHeight, packageWidth))
}
