package torch_test

import (
	"fmt"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

func BenchmarkResize(b *testing.B) {
	for _, size := range [][2]int{{590, 480}, {1500, 1220}, {1220, 1500}, {100, 80}} {
		source := goldens.Noise(1, size[0]*size[1]*3)
		pixels := make([]byte, 228*228*3)
		for _, orientation := range []torch.Orientation{torch.Upright, 6} {
			b.Run(fmt.Sprintf("%dx%d/orientation=%d", size[0], size[1], orientation), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := torch.Resize(source, size[0], size[1], 3, orientation, torch.Bilinear, 228, 228, pixels); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkEncodeJPEG(b *testing.B) {
	pixels := goldens.RGB(b, "jpeg-large.input.png")
	out := make([]byte, torch.JPEGBound(228, 228, 3))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := torch.EncodeJPEG(pixels, 228, 228, 3, 75, out); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeJPEG(b *testing.B) {
	for _, name := range []string{"jpeg-228.jpg", "jpeg-large.jpg"} {
		data := goldens.Read(b, "pictures/"+name)
		pixels := make([]byte, 228*228*3)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := torch.DecodeJPEG(b.Context(), data, torch.DecodeOptions{}, 228, 228, pixels); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The model only negates, so this measures the cost of a batch apart from the model's own work.
func BenchmarkForwardImages(b *testing.B) {
	m := load(b, "negate.pt")
	for _, size := range []int{1, 2, 8} {
		batch := torch.Images{Height: 228, Width: 228, Channels: 3}
		out := make([][]byte, size)
		for i := range size {
			batch.Items = append(batch.Items, goldens.Noise(uint32(i), 228*228*3))
			out[i] = make([]byte, 228*228*3)
		}
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				next := 0
				_, err := forward(m, batch, func(int) []byte { next++; return out[next-1] })
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
