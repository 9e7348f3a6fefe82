package torch_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// loadReturning loads a module whose forward has a body and a return type.
func loadReturning(t *testing.T, returns, body string, values torch.Values) *torch.Module {
	t.Helper()
	path := goldens.ScriptReturning(t, filepath.Join(t.TempDir(), "model.pt"), returns, "    "+strings.ReplaceAll(body, "\n", "\n    "))
	m, err := torch.Load(path, torch.Options{Values: values})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

const (
	firstOf = "y = torch.slice(x, 1, 0, 1)\n" // the red channel, [N, 1, H, W]
	asBytes = "torch.to(torch.round(torch.mul(%s, 255)), 0)"
)

// The image's own pixels come back from every form in which a module can return them.
func TestFormsOfOutputs(t *testing.T) {
	bytesOfX := fmt.Sprintf(asBytes, "x")
	red := func(v torch.Values) torch.Values { v.Kind = torch.OutputMask; return v }(torch.Values{})
	nhwc := "torch.permute(x, [0, 2, 3, 1])"
	for _, test := range []struct {
		name, returns, body string
		values              torch.Values
		want                string // rgb: the image; red: its red channel; rgba: with the red channel as alpha
	}{
		{"tensor", "Tensor", "return x", torch.Values{}, "rgb"},
		{"tuple of one", "Tuple[Tensor]", "return (x,)", torch.Values{}, "rgb"},
		{"list of one in a tuple of one", "Tuple[List[Tensor]]", "return ([x],)", torch.Values{}, "rgb"},
		{"dict of one", "Dict[str, Tensor]", `return {"out": x}`, torch.Values{}, "rgb"},
		{"tuple, by index", "Tuple[Tensor, Tensor]", "return (torch.neg(x), x)", torch.Values{Path: "1"}, "rgb"},
		{"list, by index", "List[Tensor]", "return [torch.neg(x), x]", torch.Values{Path: "1"}, "rgb"},
		{"dict, by key", "Dict[str, Tensor]", `return {"aux": torch.neg(x), "out": x}`, torch.Values{Path: "out"}, "rgb"},
		{"dict, by a number", "Dict[int, Tensor]", `return {4: torch.neg(x), 8: x}`, torch.Values{Path: "8"}, "rgb"},
		{"key with a slash", "Dict[str, Tensor]", `return {"a": torch.neg(x), "a/b": x}`, torch.Values{Path: "a/b"}, "rgb"},
		{"nested", "Tuple[Tensor, Dict[str, List[Tensor]]]", `return (x, {"a": [torch.neg(x), x]})`, torch.Values{Path: "1/a/1"}, "rgb"},
		{"nested, the last step by itself", "Tuple[Tensor, Dict[str, List[Tensor]]]", `return (torch.neg(x), {"a": [x]})`, torch.Values{Path: "1"}, "rgb"},
		{"NHWC", "Tensor", "return " + nhwc, torch.Values{}, "rgb"},
		{"NHWC, as said", "Tensor", "return " + nhwc, torch.Values{Layout: torch.NHWC}, "rgb"},
		{"float16", "Tensor", "return torch.to(x, 5)", torch.Values{Rounding: torch.RoundNearest}, "rgb"},
		{"float64", "Tensor", "return torch.to(x, 7)", torch.Values{}, "rgb"},
		{"bfloat16", "Tensor", firstOf + "return torch.to(torch.to(torch.gt(y, 0.5), 6), 15)", torch.Values{}, "black and white"},
		{"bool", "Tensor", firstOf + "return torch.gt(y, 0.5)", red, "black and white"},
		{"uint8", "Tensor", "return " + bytesOfX, torch.Values{Output: torch.Range{Low: 0, High: 7}}, "rgb"},
		{"uint8 NHWC", "Tensor", "return " + fmt.Sprintf(asBytes, nhwc), torch.Values{}, "rgb"},
		{"int64", "Tensor", "return torch.to(" + bytesOfX + ", 4)", torch.Values{Output: torch.Range{Low: 0, High: 255}}, "rgb"},
		{"RGBA", "Tensor", firstOf + "return torch.cat([x, y], 1)", torch.Values{}, "rgba"},
		{"BGRA", "Tensor", "return torch.cat([x, torch.slice(x, 1, 2, 3)], 1)", torch.Values{Channels: torch.BGR}, "rgba"},
		{"uint8 RGBA", "Tensor", firstOf + "return " + fmt.Sprintf(asBytes, "torch.cat([x, y], 1)"), torch.Values{}, "rgba"},
		{"N, H, W", "Tensor", "return torch.select(x, 1, 0)", torch.Values{}, "red"},
		{"mask", "Tensor", "return torch.slice(x, 1, 0, 1)", red, "red"},
		{"mean and deviation", "Tensor", "return torch.div(torch.sub(x, 0.5), 0.25)", torch.Values{
			OutputMean: [3]float64{0.5, 0.5, 0.5}, OutputStd: [3]float64{0.25, 0.25, 0.25}, Rounding: torch.RoundNearest,
		}, "rgb"},
		{"logits", "Tensor", firstOf + "z = torch.clamp(y, 0.0001, 0.9999)\nreturn torch.log(torch.div(z, torch.rsub(z, 1)))",
			torch.Values{Kind: torch.OutputMask, Activation: torch.Sigmoid, Rounding: torch.RoundNearest}, "red"},
		{"logits of background and mask", "Tensor", firstOf + "z = torch.clamp(y, 0.0001, 0.9999)\nreturn torch.cat([torch.log(torch.rsub(z, 1)), torch.log(z)], 1)",
			torch.Values{Kind: torch.OutputMask, Activation: torch.Softmax, Rounding: torch.RoundNearest}, "red"},
		{"class numbers", "Tensor", "return torch.to(torch.select(" + bytesOfX + ", 1, 0), 4)", torch.Values{Kind: torch.OutputClasses}, "red"},
		{"class numbers in a channel", "Tensor", "return torch.mul(torch.slice(x, 1, 0, 1), 255)", torch.Values{Kind: torch.OutputClasses}, "red"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := loadReturning(t, test.returns, test.body, test.values)
			for _, count := range []int{1, 2} {
				in := images(count, 5, 9)
				out, err := forward(m, in, nil)
				if err != nil {
					t.Fatal(err)
				}
				for i, item := range in.Items {
					if want := wanted(item, test.want); !bytes.Equal(out.Items[i], want) {
						t.Errorf("image %d of %d: got %v, want %v", i, count, out.Items[i][:8], want[:8])
					}
				}
			}
		})
	}
}

// wanted returns the pixels that a test names.
func wanted(rgb []byte, name string) []byte {
	var out []byte
	for i := 0; i < len(rgb); i += 3 {
		switch name {
		case "rgb":
			out = append(out, rgb[i:i+3]...)
		case "rgba":
			out = append(out, rgb[i], rgb[i+1], rgb[i+2], rgb[i])
		case "red":
			out = append(out, rgb[i])
		case "black and white":
			out = append(out, byte(int(rgb[i])/128*255))
		}
	}
	return out
}

// A batch of one may lack its dimension, and then that of a single channel as well.
func TestSqueezedOutputs(t *testing.T) {
	in := images(1, 5, 9)
	for body, want := range map[string]string{
		"return torch.squeeze(x, 0)":                                           "rgb",
		"return torch.permute(torch.squeeze(x, 0), [1, 2, 0])":                 "rgb",
		"return torch.squeeze(torch.slice(x, 1, 0, 1))":                        "red",
		"return torch.select(torch.permute(x, [1, 0, 2, 3]), 1, 0)":            "rgb",
		"return torch.unsqueeze(torch.select(torch.select(x, 0, 0), 0, 0), 0)": "red",
	} {
		out, err := forward(loadReturning(t, "Tensor", body, torch.Values{}), in, nil)
		if err != nil || !bytes.Equal(out.Items[0], wanted(in.Items[0], want)) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// Of equal scores the first counts, and numbers outside of a byte are clamped.
func TestClasses(t *testing.T) {
	in := images(2, 5, 9)
	scores := "torch.cat([torch.full_like(y, 0.25), y, torch.full_like(y, 0.75)], 1)"
	for body, class := range map[string]func(red byte) byte{
		firstOf + "return " + scores: func(red byte) byte {
			switch {
			case red >= 192:
				return 1
			default:
				return 2
			}
		},
		firstOf + "return torch.zeros_like(torch.cat([y, y, y, y, y, y], 1))":        func(byte) byte { return 0 },
		firstOf + "return torch.to(torch.gt(y, 0.5), 4)":                             func(red byte) byte { return red / 128 },
		firstOf + "return torch.sub(torch.to(torch.round(torch.mul(y, 765)), 3), 9)": func(red byte) byte { return byte(min(max(3*int(red)-9, 0), 255)) },
		firstOf + "return torch.gt(y, 0.5)":                                          func(red byte) byte { return red / 128 },
	} {
		out, err := forward(loadReturning(t, "Tensor", body, torch.Values{Kind: torch.OutputClasses}), in, nil)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		for i, item := range in.Items {
			for p, red := range wanted(item, "red") {
				if got := out.Items[i][p]; got != class(red) {
					t.Fatalf("%s: class %d for red %d, want %d", body, got, red, class(red))
				}
			}
		}
	}
	first := loadReturning(t, "Tensor", firstOf+"return "+scores, torch.Values{Kind: torch.OutputClasses})
	last := loadReturning(t, "Tensor", firstOf+"return torch.permute("+scores+", [0, 2, 3, 1])", torch.Values{Kind: torch.OutputClasses, Layout: torch.NHWC})
	expectSame(t, "NHWC", last, first, in)
}

// Depth is scaled for each image alone, by its finite values; an image of one value is black.
func TestDepth(t *testing.T) {
	m := loadReturning(t, "Tensor", "y = torch.select(x, 1, 0)\nz = torch.select(x, 1, 1)\nfar = torch.mul(y, 40)\n"+
		"return torch.masked_fill(torch.masked_fill(far, torch.gt(z, 0.99), inf), torch.lt(z, 0.01), torch.neg(inf))", torch.Values{Kind: torch.OutputDepth})
	flat := bytes.Repeat([]byte{77, 100, 0}, 4)
	other := []byte{50, 100, 0, 60, 100, 0, 70, 255, 0, 250, 255, 0}
	third := []byte{50, 100, 0, 60, 100, 0, 150, 0, 0, 100, 100, 0}
	out, err := forward(m, torch.Images{Height: 2, Width: 2, Channels: 3, Items: [][]byte{flat, other, third}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{{0, 0, 0, 0}, {0, 255, 255, 255}, {0, 51, 0, 255}} {
		for p, v := range want {
			if d := int(out.Items[i][p]) - int(v); d < -1 || d > 1 {
				t.Errorf("image %d: got %v, want %v", i, out.Items[i], want)
				break
			}
		}
	}
}

func TestChroma(t *testing.T) {
	m := loadReturning(t, "Tensor", "return torch.slice(x, 1, 0, 2)", torch.Values{
		Kind: torch.OutputChroma, OutputStd: [3]float64{255, 510, 1}, OutputMean: [3]float64{-128, 0.5, 0},
	})
	out, err := forward(m, torch.Images{Height: 1, Width: 2, Channels: 3, Items: [][]byte{{128, 3, 0, 0, 255, 0}}}, nil)
	if err != nil || out.Channels != 4 {
		t.Fatal(out.Channels, err)
	}
	// 0 and 6.5; -128 and 510.5, which is more than the number can hold
	if want := []byte{0, 0, 0x80, 6, 0, 0x80, 0xff, 0x7f}; !bytes.Equal(out.Items[0], want) {
		t.Errorf("got %v, want %v", out.Items[0], want)
	}
}

func TestLightness(t *testing.T) {
	m := loadReturning(t, "Tensor", "return x", torch.Values{Channels: torch.Lightness, Kind: torch.OutputChroma})
	_, err := forward(m, images(1, 5, 9), nil)
	expectKind(t, err, torch.ErrOutput)
	m = loadReturning(t, "Tensor", "return x", torch.Values{Channels: torch.Lightness, Rounding: torch.RoundNearest})
	in := torch.Images{Height: 1, Width: 6, Channels: 3, Items: [][]byte{{0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255, 119, 119, 119}}}
	out, err := forward(m, in, nil)
	// L is 0, 100, 53.24, 87.73, 32.30 and 50.03, as by scikit-image's rgb2lab.
	if want := []byte{0, 255, 136, 224, 82, 128}; err != nil || !bytes.Equal(out.Items[0], want) {
		t.Errorf("got %v, %v, want %v", out.Items, err, want)
	}
}

// The error says what there is and what to write.
func TestOutputErrors(t *testing.T) {
	for _, test := range []struct{ returns, body, path, want string }{
		{"Tuple[Tensor, Tensor]", "return (x, torch.select(x, 1, 0))", "", "a tuple of 2 values instead of a tensor: 0: float32 [1, 3, 5, 9]; 1: float32 [1, 5, 9]; choose one in model.yaml, such as output: 0"},
		{"List[Tensor]", "return [x, x]", "", "a list of 2 values instead of a tensor: 0: float32 [1, 3, 5, 9]; 1: "},
		{"List[Tensor]", "return annotate(List[Tensor], [])", "", "a list of 0 values"},
		{"Dict[str, Tensor]", `return {"out": x, "aux": torch.to(x, 5)}`, "", "a dict of 2 values instead of a tensor: out: float32 [1, 3, 5, 9]; aux: float16 [1, 3, 5, 9]; choose one in model.yaml, such as output: out"},
		{"Dict[str, Tensor]", `return {"out": x, "aux": x}`, "oot", "the module's output has no oot, which the setting output asks for: out: float32"},
		{"Tuple[Tensor, List[Tensor]]", "return (x, [x, x])", "1", "a list of 2 values instead of a tensor: 0: float32 [1, 3, 5, 9]; 1/0: float32 [1, 3, 5, 9]; 1/1: "},
		{"Tuple[Tensor, List[Tensor]]", "return (x, [x, x])", "1/2", "has no 1/2"},
		{"Tuple[Tensor, List[Tensor]]", "return (x, [x, x])", "0/0", "has no 0/0"},
		{"Tensor", "return x", "out", "has no out, which the setting output asks for"},
		{"int", "return 3", "", "the module returned a value of type Int instead of a tensor"},
		{"Tuple[int, Tensor]", "return (3, x)", "", "0: Int, which isn't a tensor; 1: float32"},
		{"Tensor", "return torch.slice(x, 1, 0, 2)", "", "float32 [1, 2, 5, 9]; a batch of 1 images needs [1, 1, 3 or 4, height, width]; if these are a and b of Lab, set output-kind: chroma"},
		{"Tensor", "return torch.cat([x, x], 1)", "", "if these are the scores of 6 classes, set output-kind: classes"},
		{"Tensor", "return torch.cat([x, x])", "", "float32 [2, 3, 5, 9]; a batch of 1 images needs [1, 1, 3 or 4, height, width]"},
		{"Tensor", "return torch.mean(x)", "", "float32 []"},
		{"Tensor", "return torch.complex(x, x)", "", "complex64 [1, 3, 5, 9]"},
	} {
		_, err := forward(loadReturning(t, test.returns, test.body, torch.Values{Path: test.path}), images(1, 5, 9), nil)
		if !errors.Is(err, torch.ErrOutput) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.body, err, test.want)
		}
	}
	for kind, want := range map[torch.OutputKind]string{
		torch.OutputMask: "[1, 1, height, width]", torch.OutputDepth: "[1, 1, height, width]", torch.OutputChroma: "[1, 2, height, width]",
	} {
		_, err := forward(loadReturning(t, "Tensor", "return x", torch.Values{Kind: kind}), images(1, 5, 9), nil)
		if !errors.Is(err, torch.ErrOutput) || !strings.Contains(err.Error(), want) {
			t.Errorf("kind %d: got %v, want %q", kind, err, want)
		}
	}
	many := loadReturning(t, "Tensor", "return torch.repeat(x, [1, 86, 1, 1])", torch.Values{Kind: torch.OutputClasses})
	if _, err := forward(many, images(1, 5, 9), nil); !errors.Is(err, torch.ErrOutput) || !strings.Contains(err.Error(), "[1, 1 to 256, height, width]") {
		t.Errorf("258 classes: %v", err)
	}
}

// Both code paths for colours round alike: rows that fill the vectors of AVX2, and the rest.
func TestRounding(t *testing.T) {
	for rounding, add := range map[torch.Rounding]int{torch.RoundDown: 0, torch.RoundNearest: 128} {
		for _, body := range []string{"return torch.mul(x, 0.5)", "return torch.mul(torch.cat([x, torch.slice(x, 1, 0, 1)], 1), 0.5)"} {
			m := loadReturning(t, "Tensor", body, torch.Values{Rounding: rounding})
			in := images(1, 1, 37)
			out, err := forward(m, in, nil)
			if err != nil {
				t.Fatal(err)
			}
			for p := range 37 {
				for c := range 3 {
					want := byte((int(in.Items[0][3*p+c])*128 + add) / 256)
					if got := out.Items[0][out.Channels*p+c]; got != want {
						t.Errorf("rounding %d: half of %d is %d, want %d", rounding, in.Items[0][3*p+c], got, want)
					}
				}
			}
		}
	}
}
