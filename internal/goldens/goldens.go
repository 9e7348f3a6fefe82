// Package goldens gives tests the pictures, modules and expected answers in testdata/, which models/goldens.py and
// models/fixtures.py made with Pillow, torchvision and PyTorch.
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

// A Image is a file as a client would send it, and what is to come of it.
type Image struct {
	Name   string `json:"name"`
	File   string `json:"file"` // below testdata
	Width  int    `json:"width"`
	Height int    `json:"height"` // both as stored
	Mode   string `json:"mode"`   // Pillow's
	Expect string `json:"expect"` // "ok" or the text of the error
	// Input names the picture as the model gets it: turned, RGB, resized to 228x228.
	Input string `json:"input"`
	// GrayInput is the SHA-256 of a grey picture's pixels, turned, RGB with equal channels and resized to 228x228. Of one
	// with 16 bits there is none.
	GrayInput string `json:"gray_input_sha256"`
	// Negate and Bundled name the demo's answers through testdata/modules/negate.pt and the bundled model; empty
	// where there is none.
	Negate  string `json:"negate"`
	Bundled string `json:"bundled"`
}

// A Resize is a case of resizing noise, with the SHA-256 of Pillow's answer.
type Resize struct {
	Filter    string `json:"filter"`
	Seed      uint32 `json:"seed"`
	Width     int    `json:"width"`
	Height    int    `json:"height"`
	OutWidth  int    `json:"out_width"`
	OutHeight int    `json:"out_height"`
	Output    string `json:"output_sha256"`
}

// Manifest is testdata/goldens/goldens.json.
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
	// Gray is noise as Pillow's grey, with its SHA-256.
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

// Path is a file's path, given below testdata.
func Path(name string) string { return filepath.Join(testdata(), name) }

// testdata is the nearest such folder above the test's own. Not one beside this source, whose path a test program that
// was carried to another machine looks for in vain.
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
	return filepath.Join(here, "testdata") // what is read there tells that it is missing
})

// Read is a file's content, given below testdata.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(Path(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// RGB is a golden PNG's pixels, three bytes each, without alpha.
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

// Noise is count bytes of the manifest's generator.
func Noise(seed uint32, count int) []byte {
	noise := make([]byte, count)
	for i := range noise {
		seed = seed*1664525 + 1013904223
		noise[i] = byte(seed >> 24)
	}
	return noise
}

// Difference compares bytes of equal length: the largest difference, and the share of equal ones.
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

// PSNR is the peak signal-to-noise ratio of two pictures' bytes in dB; infinite for equal ones.
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
