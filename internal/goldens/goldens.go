// Package goldens reads the images, modules and expected outputs in testdata/ for tests. They are made by
// torchherd_tools goldens and fixtures (tools/) with Pillow, torchvision and PyTorch.
package goldens

import (
	"bytes"
	"encoding/json"
	"image"
	"image/draw"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// An Image is a file as a client sends it, with the expected results.
type Image struct {
	Name   string `json:"name"`
	File   string `json:"file"`   // path relative to testdata
	Width  int    `json:"width"`  // before EXIF orientation is applied
	Height int    `json:"height"` // before EXIF orientation is applied
	Mode   string `json:"mode"`   // Pillow's name of the pixel format
	Expect string `json:"expect"` // "ok" or the text of the error
	// Input is the name of the model's input as a PNG: upright, RGB, resized to 228x228.
	Input string `json:"input"`
	// GrayInput is the SHA-256 of the model's input for a grayscale image: upright, three equal channels, resized to
	// 228x228. It is empty for 16-bit images.
	GrayInput string `json:"gray_input_sha256"`
	// Negate and Bundled are the names of the Sanic demo's responses with testdata/modules/negate.pt and with the bundled
	// model; empty if there is none.
	Negate  string `json:"negate"`
	Bundled string `json:"bundled"`
}

// A Resize is a case of resizing noise, with the SHA-256 of Pillow's output.
type Resize struct {
	Filter    string `json:"filter"`
	Seed      uint32 `json:"seed"`
	Width     int    `json:"width"`
	Height    int    `json:"height"`
	OutWidth  int    `json:"out_width"`
	OutHeight int    `json:"out_height"`
	Output    string `json:"output_sha256"`
}

// Manifest is the content of testdata/goldens/goldens.json.
type Manifest struct {
	Images  []Image `json:"pictures"`
	Forward struct {
		Shape  []int64 `json:"shape"`
		Input  string  `json:"input"`
		Output string  `json:"output"`
	} `json:"forward"`
	Resize struct {
		Cases []Resize `json:"cases"`
	} `json:"resize"`
	// Gray is a case of converting noise to grayscale, with the SHA-256 of Pillow's output.
	Gray struct {
		Seed   uint32 `json:"seed"`
		Width  int    `json:"width"`
		Height int    `json:"height"`
		Output string `json:"output_sha256"`
	} `json:"gray"`
}

// Load reads the manifest.
func Load(t testing.TB) Manifest {
	t.Helper()
	var m Manifest
	if err := json.Unmarshal(Read(t, "goldens/goldens.json"), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Images) == 0 || len(m.Resize.Cases) == 0 {
		t.Fatal("the manifest is empty")
	}
	return m
}

// Path returns the path of a file whose name is relative to testdata.
func Path(name string) string { return filepath.Join(testdata(), name) }

// testdata returns the nearest folder testdata with goldens, in the test's working directory or above. The path of this
// source file isn't used, since a test binary may run on another machine.
var testdata = sync.OnceValue(func() string {
	here, err := os.Getwd()
	for folder := here; err == nil; folder = filepath.Dir(folder) {
		found := filepath.Join(folder, "testdata", "goldens", "goldens.json")
		if _, missing := os.Stat(found); missing == nil {
			return filepath.Join(folder, "testdata")
		}
		if folder == filepath.Dir(folder) {
			break
		}
	}
	return filepath.Join(here, "testdata") // reading from it fails and names the missing file
})

// Read returns the content of a file whose name is relative to testdata.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(Path(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// RGB returns the pixels of a PNG in testdata/goldens, three bytes each, without alpha.
func RGB(t testing.TB, name string) []byte {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(Read(t, "goldens/"+name)))
	if err != nil {
		t.Fatal(err)
	}
	bounds := img.Bounds()
	rgba := image.NewRGBA(bounds)
	draw.Draw(rgba, bounds, img, bounds.Min, draw.Src)
	pixels := make([]byte, 0, 3*bounds.Dx()*bounds.Dy())
	for from := rgba.Pix; len(from) > 0; from = from[4:] {
		pixels = append(pixels, from[:3]...)
	}
	return pixels
}

// Noise returns count bytes of the generator that torchherd_tools goldens uses.
func Noise(seed uint32, count int) []byte {
	noise := make([]byte, count)
	for i := range noise {
		seed = seed*1664525 + 1013904223
		noise[i] = byte(seed >> 24)
	}
	return noise
}

// Difference compares slices of equal length. It returns the largest difference of two bytes, and the proportion of equal
// bytes.
func Difference(a, b []byte) (largest int, equal float64) {
	same := 0
	for i := range a {
		d := int(a[i]) - int(b[i])
		largest = max(largest, d, -d)
		if d == 0 {
			same++
		}
	}
	return largest, float64(same) / float64(len(a))
}

// PSNR returns the peak signal-to-noise ratio of two images' pixels in dB; infinity if they are equal.
func PSNR(a, b []byte) float64 {
	sum := 0.0
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		sum += d * d
	}
	if sum == 0 {
		return math.Inf(1)
	}
	return 10 * math.Log10(255*255*float64(len(a))/sum)
}
