package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"path/filepath"
	"slices"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// keepingModel makes a folder with a module that serves images at their own sizes.
func keepingModel(t *testing.T, of, settings string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "m")
	putFile(t, filepath.Join(folder, "1", "model.pt"), goldens.Read(t, "modules/"+of))
	putSettings(t, folder, "size: keep\nwarm-up: [8x8]\ngrayscale: rgb\n"+settings+"\n")
	return folder
}

// glass returns an image whose right half is transparent, and its PNG.
func glass(t *testing.T) (*image.NRGBA, []byte) {
	t.Helper()
	img, _ := noise(t, 8, 8)
	for i := range 64 {
		if i%8 >= 4 {
			img.Pix[4*i+3] = 0
		}
	}
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		t.Fatal(err)
	}
	return img, file.Bytes()
}

// A model that changes nothing returns the alpha of its image, in the formats that have one, and a larger result a larger alpha.
func TestAlphaIsPutBack(t *testing.T) {
	t.Parallel()
	img, file := glass(t)
	s := start(t, keepingModel(t, "identity.pt", "alpha: keep"))
	for _, format := range []string{"png", "webp", "avif"} {
		r := s.putTo("/image?format="+format, file)
		if r.status != 200 {
			t.Fatalf("%s: %d, %s", format, r.status, r.body)
		}
		switch format {
		case "png":
			expectPixels(t, format, decodePNG(t, r.body), image.Pt(8, 8), img.NRGBAAt)
		case "webp":
			expectPixels(t, format, decodeWebP(t, r.body), image.Pt(8, 8), img.NRGBAAt)
		case "avif":
			got, err := readAVIF(bytes.NewReader(r.body))
			if err != nil {
				t.Fatal(err)
			}
			for i, a := range got.(*image.NRGBA).Pix { // the colours change a little
				if i%4 == 3 && a != img.Pix[i] {
					t.Fatalf("avif: the alpha of pixel %d is %d, want %d", i/4, a, img.Pix[i])
				}
			}
		}
	}
	if r := s.putTo("/image?format=jpeg", file); r.status != 200 || r.header.Get("Content-Type") != "image/jpeg" {
		t.Errorf("as JPEG: %d, %s", r.status, r.body)
	}
	s = start(t, keepingModel(t, "upscale2.pt", "alpha: keep"))
	r := s.putTo("/image?format=png", file)
	if r.status != 200 {
		t.Fatalf("twice as large: %d, %s", r.status, r.body)
	}
	large := decodePNG(t, r.body)
	for x, want := range map[int]uint8{0: 255, 5: 255, 10: 0, 15: 0} {
		if a := color.NRGBAModel.Convert(large.At(x, 3)).(color.NRGBA).A; a != want || large.Bounds().Dx() != 16 {
			t.Errorf("twice as large: alpha %d at %d of %d, want %d", a, x, large.Bounds().Dx(), want)
		}
	}
}

func TestAlphaOverWhite(t *testing.T) {
	t.Parallel()
	img, file := glass(t)
	s := start(t, keepingModel(t, "identity.pt", "alpha: over white"))
	r := s.putTo("/image?format=png", file)
	if r.status != 200 {
		t.Fatalf("%d, %s", r.status, r.body)
	}
	expectPixels(t, "over white", decodePNG(t, r.body), image.Pt(8, 8), func(x, y int) color.NRGBA {
		if x >= 4 {
			return color.NRGBA{255, 255, 255, 255}
		}
		return img.NRGBAAt(x, y)
	})
}

// A response has a profile of sRGB if the settings say so, and the quality that the request asks for.
func TestMetadataAndQuality(t *testing.T) {
	t.Parallel()
	s := start(t, keepingModel(t, "identity.pt", "metadata: color"))
	file := goldens.Read(t, "colour/display-p3.png")
	for format, marks := range map[string]string{"jpeg": "ICC_PROFILE\x00\x01\x01", "png": "iCCP", "webp": "ICCP", "avif": "colrprof"} {
		if r := s.putTo("/image?format="+format, file); r.status != 200 || !bytes.Contains(r.body, []byte(marks)) {
			t.Errorf("%s: status %d, without a profile", format, r.status)
		}
	}
	photo := photograph(t, "jpeg-228.jpg")
	var sizes []int
	for _, quality := range []string{"10", "75", "95"} {
		r := s.putTo("/image?format=jpeg&quality="+quality, photo)
		if r.status != 200 {
			t.Fatalf("quality %s: %d, %s", quality, r.status, r.body)
		}
		sizes = append(sizes, len(r.body))
	}
	if usual := len(s.putTo("/image", photo).body); !slices.IsSorted(sizes) || sizes[0] == sizes[2] || sizes[1] != usual {
		t.Errorf("%v bytes with a quality of 10, 75 and 95, %d without", sizes, usual)
	}
	for _, quality := range []string{"0", "101", "high", ""} {
		expectError(t, s.putTo("/image?quality="+quality, photo), 400, "quality must be 1 to 100, such as quality=90")
	}
}

// A result that its format can't hold is refused before the model runs, with a text that names the limit.
func TestResultsThatAreTooLong(t *testing.T) {
	t.Parallel()
	s := start(t, keepingModel(t, "identity.pt", ""))
	_, jpeg := noise(t, 65501, 2)
	_, webp := noise(t, 16385, 2)
	before := s.log.count("message", "forward")
	expectError(t, s.put(jpeg), 422, "is too long for JPEG, whose sides are at most 65500 pixels: ask for format=png")
	expectError(t, s.putTo("/image?format=webp", webp), 422, "is too long for WebP, whose sides are at most 16383 pixels: ask for format=png")
	if after := s.log.count("message", "forward"); before == 0 || after != before {
		t.Error("the model has run")
	}
	if r := s.putTo("/image?format=png", webp); r.status != 200 {
		t.Errorf("as PNG: %d, %s", r.status, r.body)
	}
}

// With --compat sanic a profile changes nothing, as in the demo.
func TestSanicIgnoresColours(t *testing.T) {
	t.Parallel()
	file := goldens.Read(t, "colour/prophoto.png")
	sanic := start(t, "--compat", "sanic", "--max-wait", "0s", "--size", "16x16", module("identity.pt"))
	r := sanic.putTo("/image?format=png", file)
	if r.status != 200 {
		t.Fatalf("%d, %s", r.status, r.body)
	}
	want := decodePNG(t, file)
	expectPixels(t, "as stored", decodePNG(t, r.body), image.Pt(16, 16), func(x, y int) color.NRGBA {
		return color.NRGBAModel.Convert(want.At(x, y)).(color.NRGBA)
	})
	if converted := start(t, "--max-wait", "0s", "--size", "16x16", module("identity.pt")).putTo("/image?format=png", file); bytes.Equal(converted.body, r.body) {
		t.Error("without it, the colours are as stored too")
	}
}
