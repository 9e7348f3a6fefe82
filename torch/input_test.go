package torch_test

import (
	"encoding/json"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// A module of half(), bfloat16() or double() gets its input in its own type, and gives Python's pixels. One whose weights
// are only stored in float16 gets float32.
func TestInputHasTheTypeOfTheWeights(t *testing.T) {
	var python map[string][]int
	if err := json.Unmarshal(goldens.Read(t, "modules/mixed.json"), &python); err != nil {
		t.Fatal(err)
	}
	bytesOf := func(name string) []byte {
		values := make([]byte, len(python[name]))
		for i, value := range python[name] {
			values[i] = byte(value)
		}
		return values
	}
	pixels := bytesOf("pixels")
	seen := map[string]string{}
	for _, name := range []string{"mix_half", "mix_bfloat16", "mix_double", "mix_stored_half"} {
		m := load(t, name+".pt")
		for range 3 { // the first run finds the type, and the second one compiles
			out, err := forward(m, torch.Images{Height: 16, Width: 16, Channels: 3, Items: [][]byte{pixels, pixels}}, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for i, item := range out.Items {
				if largest, _ := goldens.Difference(item, bytesOf(name)); largest > 0 {
					t.Errorf("%s: item %d differs from Python's by %d", name, i, largest)
				}
			}
		}
		seen[string(bytesOf(name))] = name
	}
	if len(seen) < 3 {
		t.Errorf("only %d of the types differ, so this proves little: %v", len(seen), seen)
	}
}

// Each input reaches forward as its kind, and items keep their own.
func TestInputsOfForward(t *testing.T) {
	path := goldens.ScriptOf(t, t.TempDir()+"/model.pt",
		"x: Tensor, mask: Tensor, strength: Tensor, gain: float, steps: int, flag: bool, state: Optional[Tensor], base: Tensor", `
    y = torch.mul(torch.mul(mask, gain), steps)
    if torch.__is__(state, None) and flag:
      z = torch.reshape(strength, [-1, 1, 1, 1])
    else:
      z = torch.zeros_like(mask)
    return torch.cat([torch.add(torch.slice(x, 1, 0, 1), torch.slice(base, 1, 0, 1)), y, torch.add(torch.zeros_like(mask), z)], 1)
`)
	inputs := []torch.Input{
		{Kind: torch.InputBatch},
		{Kind: torch.InputImage, Values: torch.Values{Channels: torch.Gray}},
		{Kind: torch.InputNumber, Tensor: true, Shape: []int64{torch.PerItem, 1}},
		{Kind: torch.InputNumber},
		{Kind: torch.InputConstant, Integer: true, Numbers: []float64{2}},
		{Kind: torch.InputConstant, Integer: true, Numbers: []float64{1}},
		{Kind: torch.InputNone},
		{Kind: torch.InputConstant, Tensor: true, Shape: []int64{torch.PerItem, 1, 1, 1}, Numbers: []float64{0.2}},
	}
	m, err := torch.Load(path, torch.Options{Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	batch := torch.Images{Height: 1, Width: 1, Channels: 3, Items: [][]byte{{10, 0, 0}, {100, 0, 0}}, Parts: &torch.Parts{
		Images:  []torch.Images{{Height: 1, Width: 1, Channels: 3, Items: [][]byte{{40, 40, 40}, {80, 80, 80}}}},
		Numbers: [][]float64{{0.2, 0.4}, {0.5, 0.5}},
	}}
	out, err := forward(m, batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{{61, 40, 51}, {151, 80, 102}} {
		if largest, _ := goldens.Difference(out.Items[i], want); largest > 1 {
			t.Errorf("item %d: got %v, want %v", i, out.Items[i], want)
		}
	}
	batch.Parts.Numbers[1][1] = 0.7
	if _, err := forward(m, batch, nil); err == nil {
		t.Error("a plain number that differs within a batch: no error")
	}
	batch.Parts = nil
	if _, err := forward(m, batch, nil); err == nil {
		t.Error("a batch without the further inputs: no error")
	}
}

// Weights that are stored in float16 and computed with in float32 take the memory of float32.
func TestBytesOfWeights(t *testing.T) {
	for name, each := range map[string]int64{"mix_half": 2, "mix_bfloat16": 2, "mix_double": 8, "mix_stored_half": 4, "negate": 0} {
		if info := load(t, name+".pt").Info(); info.Bytes != each*info.Parameters {
			t.Errorf("%s: %d parameters take %d bytes, want %d for each", name, info.Parameters, info.Bytes, each)
		}
	}
}
