package main

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/webp"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// outputModel makes a folder with a model of images of 12x8 pixels.
func outputModel(t *testing.T, name, returns, body, settings string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), name)
	goldens.ScriptReturning(t, filepath.Join(folder, "1", "model.pt"), returns, "    "+strings.ReplaceAll(body, "\n", "\n    "))
	if !strings.Contains(settings, "size:") {
		settings += "\nsize: 12x8"
	}
	putSettings(t, folder, settings+"\n")
	return folder
}

// noise returns an image of random pixels, and its PNG.
func noise(t *testing.T, width, height int) (*image.NRGBA, []byte) {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i, v := range goldens.Noise(7, width*height*3) {
		img.Pix[i/3*4+i%3], img.Pix[i/3*4+3] = v, 255
	}
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		t.Fatal(err)
	}
	return img, file.Bytes()
}

func decodeWebP(t *testing.T, data []byte) image.Image {
	t.Helper()
	img, err := webp.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// readAVIF decodes by the server's own decoder.
func readAVIF(r io.Reader) (image.Image, error) {
	file, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	codec, err := imagecodec.NewCodec(imagecodec.Config{
		Slots: cpu.NewSlots(1), Weight: 1, MaxPixels: 1 << 20, Quality: 75, Grayscale: settings.ToRGB, Alpha: settings.AlphaMode{Keep: true},
	})
	if err != nil {
		return nil, err
	}
	in, err := codec.Prepare(file)
	if err != nil {
		return nil, err
	}
	p, err := codec.Decode(context.Background(), in)
	if err == nil {
		p, err = codec.WithAlpha(context.Background(), p, p, settings.PNG)
	}
	if err != nil {
		return nil, err
	}
	return p.Standard(), nil
}

// expectPixels checks each pixel of an image within a level.
func expectPixels(t *testing.T, name string, img image.Image, size image.Point, want func(x, y int) color.NRGBA) {
	t.Helper()
	if got := img.Bounds().Size(); got != size {
		t.Errorf("%s: got %v pixels, want %v", name, got, size)
		return
	}
	for y := range size.Y {
		for x := range size.X {
			got, want := color.NRGBAModel.Convert(img.At(x, y)).(color.NRGBA), want(x, y)
			for _, pair := range [][2]uint8{{got.R, want.R}, {got.G, want.G}, {got.B, want.B}, {got.A, want.A}} {
				if d := int(pair[0]) - int(pair[1]); d < -1 || d > 1 {
					t.Errorf("%s: pixel %d, %d is %v, want %v", name, x, y, got, want)
					return
				}
			}
		}
	}
}

const redMask = "return torch.slice(x, 1, 0, 1)"

func gray(v uint8) color.NRGBA { return color.NRGBA{v, v, v, 255} }

// Each kind of output becomes an image, of the same bytes in this process and in a child process. What the models return is a
// function of the pixels, which the test computes as well.
func TestKindsOfOutput(t *testing.T) {
	t.Parallel()
	sent, file := noise(t, 12, 8)
	at := func(change func(c color.NRGBA) color.NRGBA) func(x, y int) color.NRGBA {
		return func(x, y int) color.NRGBA { return change(sent.NRGBAAt(x, y)) }
	}
	halves := func(c color.NRGBA) int { return int(c.R) / 128 }
	const classes = "y = torch.to(torch.gt(torch.slice(x, 1, 0, 1), 0.5), 6)\nreturn torch.cat([torch.rsub(y, 1), y], 1)"
	var least, greatest uint8 = 255, 0
	for i := 0; i < len(sent.Pix); i += 4 {
		least, greatest = min(least, sent.Pix[i]), max(greatest, sent.Pix[i])
	}
	tests := []struct {
		name, returns, body, settings, contentType string
		want                                       func(x, y int) color.NRGBA
	}{
		{"image of a dict", "Dict[str, Tensor]", `return {"out": x, "aux": torch.neg(x)}`, "output: out\nformat: png", "image/png", at(func(c color.NRGBA) color.NRGBA { return c })},
		{"image with alpha", "Tensor", "return torch.cat([x, torch.slice(x, 1, 0, 1)], 1)", "format: webp", "image/webp", at(func(c color.NRGBA) color.NRGBA {
			c.A = c.R
			return c
		})},
		{"mask", "Tensor", redMask, "output-kind: mask", "image/png", at(func(c color.NRGBA) color.NRGBA { return gray(c.R) })},
		{"class numbers", "Tensor", classes, "output-kind: classes", "image/png", at(func(c color.NRGBA) color.NRGBA { return gray(uint8(halves(c))) })},
		{"classes in colours", "Tensor", classes, "output-kind: classes\npalette: pascal", "image/png", at(func(c color.NRGBA) color.NRGBA {
			return color.NRGBA{uint8(128 * halves(c)), 0, 0, 255}
		})},
		{"classes in colours, as WebP", "Tensor", classes, "output-kind: classes\npalette: [[1, 2, 3]]\nformat: webp", "image/webp", at(func(c color.NRGBA) color.NRGBA {
			return []color.NRGBA{{1, 2, 3, 255}, {0, 0, 0, 255}}[halves(c)]
		})},
		{"depth", "Tensor", "return torch.mul(torch.select(x, 1, 0), 30)", "output-kind: depth", "image/png", at(func(c color.NRGBA) color.NRGBA {
			return gray(uint8(int(c.R-least) * 255 / int(greatest-least)))
		})},
		{"alpha", "Tensor", redMask, "output-kind: alpha", "image/png", at(func(c color.NRGBA) color.NRGBA {
			c.A = c.R
			return c
		})},
		{"no chroma", "Tensor", "return torch.mul(torch.slice(x, 1, 0, 2), 0)", "output-kind: chroma\nformat: png", "image/png", at(sameLightness)},
		{"luma of the image", "Tensor", "return x", "channels: gray\noutput-kind: luma\nformat: png", "image/png", at(throughYCbCr)},
	}
	var folders []string
	for i, test := range tests {
		folders = append(folders, outputModel(t, fmt.Sprint("kind", i), test.returns, test.body, test.settings))
	}
	here, there := start(t, folders...), start(t, append(folders, "--isolate")...)
	for i, test := range tests {
		r := here.putTo(fmt.Sprint("/image/kind", i), file)
		if r.status != 200 || r.header.Get("Content-Type") != test.contentType {
			t.Errorf("%s: got %d, %s, %q", test.name, r.status, r.header.Get("Content-Type"), r.body)
			continue
		}
		decode := decodePNG
		if test.contentType == "image/webp" {
			decode = decodeWebP
		}
		expectPixels(t, test.name, decode(t, r.body), image.Pt(12, 8), test.want)
		if isolated := there.putTo(fmt.Sprint("/image/kind", i), file); isolated.status != 200 || !bytes.Equal(isolated.body, r.body) {
			t.Errorf("%s, isolated: status %d, and %d bytes that aren't those of the model in the server", test.name, isolated.status, len(isolated.body))
		}
	}
}

// sameLightness returns the gray whose linear intensity is the colour's luminance, which has the same L of Lab.
func sameLightness(c color.NRGBA) color.NRGBA {
	want := 0.212671*linear(c.R) + 0.715160*linear(c.G) + 0.072169*linear(c.B)
	best := uint8(0)
	for v := range 256 {
		if linear(uint8(v)) <= want {
			best = uint8(v)
		}
	}
	return gray(best)
}

// throughYCbCr returns a colour after its way through Pillow's convert("L") and convert("YCbCr"), and back: numbers with six bits
// of fraction, which are cut off.
func throughYCbCr(c color.NRGBA) color.NRGBA {
	y := (19595*int(c.R) + 38470*int(c.G) + 7471*int(c.B) + 32768) >> 16
	times := func(factor float64, v int) int { return int(factor*64*float64(v) + 0.5) }
	r, g, b := int(c.R), int(c.G), int(c.B)
	cb := (times(-0.16874, r) + times(-0.33126, g) + times(0.5, b)) >> 6
	cr := (times(0.5, r) + times(-0.41869, g) + times(-0.08131, b)) >> 6
	clamp := func(v int) uint8 { return uint8(min(max(v, 0), 255)) }
	return color.NRGBA{
		clamp(y + times(1.402, cr)>>6), clamp(y + (times(-0.34414, cb)+times(-0.71414, cr))>>6), clamp(y + times(1.772, cb)>>6), 255,
	}
}

// A PNG of classes keeps their numbers beside the colours.
func TestPaletteKeepsClassNumbers(t *testing.T) {
	t.Parallel()
	_, file := noise(t, 12, 8)
	body := "return torch.to(torch.round(torch.mul(torch.select(x, 1, 0), 255)), 4)"
	s := start(t, outputModel(t, "m", "Tensor", body, "output-kind: classes\npalette: cityscapes"))
	r := s.put(file)
	coloured, ok := decodePNG(t, r.body).(*image.Paletted)
	if !ok {
		t.Fatalf("got %d, without a palette", r.status)
	}
	sent := decodePNG(t, file)
	for i, class := range coloured.Pix {
		red := color.NRGBAModel.Convert(sent.At(i%12, i/12)).(color.NRGBA).R
		if class != red {
			t.Fatalf("pixel %d is class %d, want %d", i, class, red)
		}
	}
	if got := coloured.Palette[18]; color.NRGBAModel.Convert(got) != (color.NRGBA{119, 11, 32, 255}) {
		t.Errorf("class 18 is %v", got)
	}
	if r := s.putTo("/image?format=jpeg", file); r.status != 200 || r.header.Get("Content-Type") != "image/jpeg" {
		t.Errorf("as JPEG: %d, %s", r.status, r.body)
	} else if config, err := jpeg.DecodeConfig(bytes.NewReader(r.body)); err != nil || config.ColorModel != color.YCbCrModel {
		t.Errorf("as JPEG: %v, %v", config, err)
	}
}

// The kinds that need the image as it was sent return it at its own size, turned by its orientation.
func TestJoinsKeepTheSizeOfTheImage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ kind, body string }{
		{"alpha", "return torch.add(torch.mul(torch.slice(x, 1, 0, 1), 0), 0.5)"},
		{"chroma", "return torch.mul(torch.slice(x, 1, 0, 2), 0)"},
	} {
		s := start(t, outputModel(t, "m", "Tensor", test.body, "grayscale: rgb\nformat: png\noutput-kind: "+test.kind))
		for name, size := range map[string]image.Point{
			"jpeg-odd.jpg": {173, 131}, "exif-6.jpg": {120, 80}, "png-gray.png": {120, 90}, "png-rgba.png": {120, 90}, "webp-lossy.webp": {120, 90},
			"gif.gif": {120, 90},
		} {
			r := s.put(photograph(t, name))
			if r.status != 200 {
				t.Errorf("%s, %s: %d, %s", test.kind, name, r.status, r.body)
				continue
			}
			img := decodePNG(t, r.body)
			if got := img.Bounds().Size(); got != size {
				t.Errorf("%s, %s: got %v pixels, want %v", test.kind, name, got, size)
			}
			if c := color.NRGBAModel.Convert(img.At(20, 20)).(color.NRGBA); test.kind == "alpha" && c.A != 127 || test.kind == "chroma" && (c.A != 255 || c.R != c.B) {
				t.Errorf("%s, %s: pixel %v", test.kind, name, c)
			}
		}
	}
}

// A model of lightness alone leaves the alpha of the image as it was sent.
func TestAlphaOfLuma(t *testing.T) {
	t.Parallel()
	s := start(t, outputModel(t, "m", "Tensor", "return x", "size: keep\nchannels: gray\noutput-kind: luma\nalpha: keep\nformat: png"))
	for _, size := range []image.Point{{12, 8}, {31, 17}} {
		sent, opaque := noise(t, size.X, size.Y)
		for i, v := range goldens.Noise(9, size.X*size.Y) {
			sent.Pix[4*i+3] = v
		}
		var file bytes.Buffer
		if err := png.Encode(&file, sent); err != nil {
			t.Fatal(err)
		}
		with, without := s.put(file.Bytes()), s.put(opaque)
		if with.status != 200 || without.status != 200 {
			t.Fatalf("%d, %s and %d, %s", with.status, with.body, without.status, without.body)
		}
		colours := decodePNG(t, without.body)
		expectPixels(t, "luma", decodePNG(t, with.body), size, func(x, y int) color.NRGBA {
			c := color.NRGBAModel.Convert(colours.At(x, y)).(color.NRGBA)
			c.A = sent.NRGBAAt(x, y).A
			return c
		})
	}
}

// A JPEG has no alpha: the client hears it before the model runs, or after, if only the output shows it.
func TestAlphaAsJPEG(t *testing.T) {
	t.Parallel()
	_, file := noise(t, 12, 8)
	const text = "the result has alpha, which a JPEG can't hold: ask for format=png, webp or avif"
	s := start(t, outputModel(t, "m", "Tensor", redMask, "output-kind: alpha"))
	expectError(t, s.putTo("/image?format=jpg", file), 400, text)
	if r := s.putTo("/image?format=webp", file); r.status != 200 {
		t.Errorf("as WebP: %d, %s", r.status, r.body)
	}
	expectError(t, s.putTo("/image?format=auto", file), 400, "unknown format")
	s = start(t, outputModel(t, "m", "Tensor", "return torch.cat([x, torch.slice(x, 1, 0, 1)], 1)", ""))
	expectError(t, s.put(file), 400, text)
}

// The memory for the image at its own size counts, so that an image for which there is never enough is refused.
func TestMemoryOfJoins(t *testing.T) {
	t.Parallel()
	_, file := noise(t, 1000, 1000)
	body := "return torch.slice(x, 1, 0, 1)"
	limit := []string{"--max-decode-memory", "8MiB", "--max-receive-memory", "8MiB"}
	plain := start(t, append(limit, outputModel(t, "m", "Tensor", body, "output-kind: mask"))...)
	if r := plain.put(file); r.status != 200 {
		t.Errorf("a mask: %d, %s", r.status, r.body)
	}
	joined := start(t, append(limit, outputModel(t, "m", "Tensor", body, "output-kind: alpha"))...)
	if r := joined.put(file); r.status != 413 {
		t.Errorf("alpha: %d, %s, want 413", r.status, r.body)
	}
}

// linear returns the linear intensity of a byte of sRGB.
func linear(v uint8) float64 {
	if s := float64(v) / 255; s > 0.04045 {
		return math.Pow((s+0.055)/1.055, 2.4)
	}
	return float64(v) / 255 / 12.92
}
