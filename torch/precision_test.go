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

// The bundled model stores its weights as float16 and converts them itself, which fails if the whole module is
// converted.
func TestBF16KeepsTheImage(t *testing.T) {
	path := goldens.Path("../models/photo2ink/model.pt")
	pixels := goldens.RGB(t, "jpeg-large.input.png")
	batch := torch.Images{Height: 228, Width: 228, Channels: 3, Items: [][]byte{pixels, goldens.Noise(1, len(pixels))}}
	var outputs []torch.Images
	for _, precision := range []torch.Precision{torch.FP32, torch.BF16} {
		m, err := torch.Load(path, torch.Options{Precision: precision})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Info().Precision; got != precision {
			t.Errorf("the module's precision is %v instead of %v", got, precision)
		}
		output, err := forward(m, batch, nil)
		if err != nil {
			t.Fatal(err)
		}
		outputs = append(outputs, output)
		_ = m.Close()
	}
	for i := range batch.Items {
		psnr := goldens.PSNR(outputs[0].Items[i], outputs[1].Items[i])
		if psnr < 35 {
			t.Errorf("image %d: PSNR to float32 is %.1f dB, want at least 35", i, psnr)
		}
		if math.IsInf(psnr, 1) {
			t.Errorf("image %d equals float32: nothing was computed in bfloat16", i)
		}
	}
}

func TestGPUOptionsOnCPU(t *testing.T) {
	for _, options := range []torch.Options{{Precision: torch.FP16}, {Precision: torch.TF32}, {CUDAGraphs: true}} {
		_, err := torch.Load(goldens.Path("modules/negate.pt"), options)
		expectKind(t, err, torch.ErrInvalidArgument)
	}
}
