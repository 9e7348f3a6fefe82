package main

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// sizedModel makes a folder with a model whose forward has this body.
func sizedModel(t *testing.T, body, settings string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "sized")
	goldens.ScriptAt(t, filepath.Join(folder, "1", "model.pt"), "\n    "+body+"\n")
	putSettings(t, folder, "format: png\n"+settings+"\n")
	return folder
}

const unchanged = "return torch.mul(x, 1.)"

func encodePNG(t *testing.T, img image.Image) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// A model that changes nothing returns exactly what was sent, whatever its sides must be multiples of.
func TestAnImageOfAnySizeComesBackUnchanged(t *testing.T) {
	t.Parallel()
	s := start(t, sizedModel(t, unchanged, "size: keep\nmultiple-of: 32\nmax-queue-size: 64"))
	for side := 1; side <= 70; side++ {
		sent, file := noise(t, side, 71-side)
		r := s.put(file)
		if r.status != http.StatusOK {
			t.Fatalf("%dx%d: got %d %s", side, 71-side, r.status, r.body)
		}
		got := decodePNG(t, r.body)
		if got.Bounds() != sent.Bounds() {
			t.Fatalf("%dx%d: the response is %v", side, 71-side, got.Bounds())
		}
		for y := range 71 - side {
			for x := range side {
				if g := color.NRGBAModel.Convert(got.At(x, y)); g != sent.NRGBAAt(x, y) {
					t.Fatalf("%dx%d: pixel %d, %d is %v, want %v", side, 71-side, x, y, g, sent.NRGBAAt(x, y))
				}
			}
		}
	}
}

// The response is cropped to the image's part of the output, whatever the fit, the output's scale and its kind.
func TestFits(t *testing.T) {
	t.Parallel()
	_, file := noise(t, 40, 20)
	const twice = "return torch.upsample_nearest2d(x, None, [2., 2.])"
	for _, test := range []struct {
		body, settings string
		want           image.Point
	}{
		{unchanged, "size: 16x16", image.Pt(16, 16)},
		{unchanged, "size: 16x16\nfit: pad", image.Pt(16, 8)},
		{unchanged, "size: 16x16\nfit: letterbox", image.Pt(16, 8)},
		{unchanged, "size: 16x16\nfit: crop", image.Pt(16, 16)},
		{twice, "size: 16x16\nfit: letterbox", image.Pt(32, 16)},
		{twice, "size: 16x16\nfit: letterbox\nanswer-size: sent", image.Pt(80, 40)},
		{unchanged, "size: 16x16\nfit: crop\nanswer-size: sent", image.Pt(20, 20)},
		{twice, "size: keep\nmultiple-of: 16", image.Pt(80, 40)},
		{unchanged, "size: keep\nmultiple-of: 16\nfit: stretch", image.Pt(48, 16)},
		{redMask, "size: 16x16\nfit: letterbox\noutput-kind: alpha", image.Pt(40, 20)},
		{"return x", "size: keep\nmultiple-of: 16\nchannels: gray\noutput-kind: luma", image.Pt(40, 20)},
	} {
		s := start(t, sizedModel(t, test.body, test.settings))
		r := s.put(file)
		if r.status != http.StatusOK {
			t.Errorf("%q: got %d %s", test.settings, r.status, r.body)
			continue
		}
		if got := decodePNG(t, r.body).Bounds().Size(); got != test.want {
			t.Errorf("%q: the response is %v, want %v", test.settings, got, test.want)
		}
	}
}

// The mask of a cut-out lies where the model saw it, also when the model's input is larger than the image.
func TestALetterboxedMaskFitsTheImage(t *testing.T) {
	t.Parallel()
	halves := image.NewNRGBA(image.Rect(0, 0, 64, 32))
	for i := range 64 * 32 {
		halves.Set(i%64, i/64, []color.NRGBA{black, white}[i%64/32])
	}
	s := start(t, sizedModel(t, redMask, "size: 128x128\nfit: letterbox\noutput-kind: alpha\nresize-filter: nearest"))
	got := decodePNG(t, s.put(encodePNG(t, halves)).body)
	for _, at := range []image.Point{{0, 0}, {31, 0}, {32, 31}, {63, 15}} {
		c := color.NRGBAModel.Convert(got.At(at.X, at.Y)).(color.NRGBA)
		if want := halves.NRGBAAt(at.X, at.Y).R; c.A != want {
			t.Errorf("alpha at %v is %d, want %d", at, c.A, want)
		}
	}
}

// A request asks for the size of its response. What can't be made is refused before the model runs.
func TestAnswerSizes(t *testing.T) {
	t.Parallel()
	_, file := noise(t, 40, 20)
	s := start(t, sizedModel(t, unchanged, "size: 16x16\nanswer-size: sent"), "--max-pixels", "1000000")
	for query, want := range map[string]image.Point{
		"": {40, 20}, "?size=sent": {40, 20}, "?size=model": {16, 16}, "?size=33x7": {33, 7}, "?size=1000x1000&format=png": {1000, 1000},
	} {
		r := s.putTo("/image"+query, file)
		if r.status != http.StatusOK {
			t.Errorf("%q: got %d %s", query, r.status, r.body)
		} else if got := decodePNG(t, r.body).Bounds().Size(); got != want {
			t.Errorf("%q: the response is %v, want %v", query, got, want)
		}
	}
	ran := s.log.count("message", "forward")
	expectError(t, s.putTo("/image?size=large", file), 400, "unknown size: use size=sent, model, or WIDTHxHEIGHT, such as 640x480 (1 to 65500 a side)")
	expectError(t, s.putTo("/image?size=keep", file), 400, "unknown size")
	expectError(t, s.putTo("/image?size=1001x1000", file), 413, "too many pixels: the result of 1001x1000 is more than 1000000 pixels: ask for a smaller size")
	expectError(t, s.putTo("/image?size=16400x10&format=webp", file), 422, "the result of 16400x10 pixels is too long for WebP")
	if now := s.log.count("message", "forward"); now != ran {
		t.Errorf("the model ran %d times for refused requests", now-ran)
	}
	demo := start(t, "--compat", "sanic", "--size", "16x16", module("negate.pt"))
	if r := demo.putTo("/image?size=large", photograph(t, "jpeg-420.jpg")); r.status != http.StatusOK || len(decodeJPEG(t, r.body)) != 3*16*16 {
		t.Errorf("with --compat sanic: got %d %.100s, want the model's image", r.status, r.body)
	}
}

// A class map keeps its class numbers when it is resized.
func TestClassMapsAreResizedByNearest(t *testing.T) {
	t.Parallel()
	_, file := noise(t, 50, 30)
	s := start(t, sizedModel(t, "return torch.mul(torch.to(torch.gt(torch.select(x, 1, 0), 0.5), 4), 200)", "size: 16x16\noutput-kind: classes\nanswer-size: sent"))
	img, ok := decodePNG(t, s.put(file).body).(*image.Gray)
	if !ok || img.Rect.Size() != image.Pt(50, 30) {
		t.Fatalf("got %T of %v", img, img.Bounds())
	}
	for i, v := range img.Pix {
		if v != 0 && v != 200 {
			t.Fatalf("pixel %d is class %d", i, v)
		}
	}
}

// A mask lies in the model's input as the image does.
func TestPartsArePlacedLikeTheImage(t *testing.T) {
	t.Parallel()
	sent, file := noise(t, 37, 21)
	for _, settings := range []string{
		"size: keep\nmultiple-of: 16", "size: keep\nmultiple-of: 8\ntile: 16\noverlap: 2", "size: 37x37\nfit: letterbox", "size: 50x21\nfit: pad",
	} {
		folder := filepath.Join(t.TempDir(), "placed")
		goldens.ScriptOf(t, folder+"/1/model.pt", "x: Tensor, mask: Tensor, style: Tensor", `
    y = torch.add(mask, torch.mul(torch.amax(style, [1, 2, 3], True), 0.))
    return torch.cat([torch.slice(x, 1, 0, 1), y, y], 1)
`)
		putSettings(t, folder, "format: png\ninputs: [image, {mask: {channels: gray}}, {style: {size: 8x8, default: 0}}]\n"+settings+"\n")
		s := start(t, folder)
		mask := image.NewNRGBA(sent.Rect)
		for i := range mask.Pix {
			mask.Pix[i] = sent.Pix[i/4*4] ^ 255
			if i%4 == 3 {
				mask.Pix[i] = 255
			}
		}
		body, kind := form(t, part{name: "image", content: file}, part{name: "mask", content: encodePNG(t, mask)})
		r := s.do(http.MethodPost, "/image", body, "Content-Type", kind)
		if r.status != http.StatusOK {
			t.Errorf("%q: got %d %s", settings, r.status, r.body)
			continue
		}
		expectPixels(t, fmt.Sprintf("%q", settings), decodePNG(t, r.body), sent.Rect.Size(), func(x, y int) color.NRGBA {
			red := sent.NRGBAAt(x, y).R
			return color.NRGBA{red, red ^ 255, red ^ 255, 255}
		})
	}
}

// An alpha that is kept comes back with the pixels that it belongs to, however the image became the model's size.
func TestAlphaGoesWithItsPixels(t *testing.T) {
	t.Parallel()
	img, _ := noise(t, 70, 45)
	for i := range img.Pix[:len(img.Pix)/4] {
		img.Pix[4*i+3] = byte(i * 3)
	}
	file := encodePNG(t, img)
	for _, settings := range []string{
		"size: keep", "size: keep\nmultiple-of: 32", "size: keep\ntile: 24\noverlap: 4", "size: keep\ntile: 24\noverlap: 4\nmultiple-of: 8",
		"size: 70x64\nfit: pad", "size: 128x45\nfit: letterbox",
	} {
		s := start(t, sizedModel(t, unchanged, "alpha: keep\n"+settings))
		r := s.put(file)
		if r.status != http.StatusOK {
			t.Errorf("%q: got %d %s", settings, r.status, r.body)
			continue
		}
		got := decodePNG(t, r.body)
		if got.Bounds().Size() != img.Bounds().Size() || !bytes.Equal(bytesOf(got), bytesOf(img)) {
			t.Errorf("%q: the response, of %v, isn't the image, of %v", settings, got.Bounds().Size(), img.Bounds().Size())
		}
	}
	// The middle of the image is used, and its alpha.
	s := start(t, sizedModel(t, unchanged, "alpha: keep\nsize: 45x45\nfit: crop"))
	const left = 12 // (70 - 45) / 2, rounded down
	want := img.SubImage(image.Rect(left, 0, left+45, 45))
	got := bytesOf(decodePNG(t, s.put(file).body))
	shifted := image.NewNRGBA(image.Rect(0, 0, 45, 45))
	for y := range 45 {
		for x := range 45 {
			shifted.Set(x, y, want.At(left+x, y))
		}
	}
	if largest, _ := goldens.Difference(got, bytesOf(shifted)); largest > 0 {
		t.Errorf("cropped: up to %d levels from the middle of the image", largest)
	}
}
