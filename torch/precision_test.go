package torch_test

import (
	"math"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

func TestPrecisionNames(t *testing.T) {
	for _, name := range []string{"fp32", "tf32", "bf16", "fp16"} {
		if p, err := torch.NewPrecision(name); err != nil || p.String() != name {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	_, err := torch.NewPrecision("fp8")
	expectKind(t, err, torch.ErrInvalidArgument)
}

// The bundled model keeps its weights as float16 and widens them itself, which a module converted as a whole couldn't.
func TestBF16KeepsTheImage(t *testing.T) {
	path := goldens.Path("../models/photo2ink/model.pt")
	pixels := goldens.RGB(t, "jpeg-large.input.png")
	batch := torch.Images{Height: 228, Width: 228, Channels: 3, Items: [][]byte{pixels, goldens.Noise(1, len(pixels))}}
	var answers []torch.Images
	for _, precision := range []torch.Precision{torch.FP32, torch.BF16} {
		m, err := torch.Load(path, torch.Options{Precision: precision})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Info().Precision; got != precision {
			t.Errorf("the module says that it computes in %v instead of %v", got, precision)
		}
		answer, err := forward(m, batch, nil)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, answer)
		_ = m.Close()
	}
	for i := range batch.Items {
		kept := goldens.PSNR(answers[0].Items[i], answers[1].Items[i])
		if kept < 35 {
			t.Errorf("picture %d keeps %.1f dB of the float32 one", i, kept)
		}
		if math.IsInf(kept, 1) {
			t.Errorf("picture %d is the float32 one: nothing was computed in bfloat16", i)
		}
	}
}

func TestPrecisionsOfCUDA(t *testing.T) {
	for _, options := range []torch.Options{{Precision: torch.FP16}, {Precision: torch.TF32}, {CUDAGraphs: true}} {
		_, err := torch.Load(goldens.Path("modules/negate.pt"), options)
		expectKind(t, err, torch.ErrInvalidArgument)
	}
}
