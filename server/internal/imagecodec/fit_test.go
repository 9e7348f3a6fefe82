package imagecodec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// noiseImage returns an image of random pixels, and its PNG.
func noiseImage(t testing.TB, width, height int) (imagecodec.Image, []byte) {
	t.Helper()
	p := imagecodec.Image{Width: width, Height: height, Channels: 3, Pixels: goldens.Noise(uint32(width*1000+height), 3*width*height)}
	return p, encodePNG(t, p.Standard())
}

func at(p imagecodec.Image, x, y int) color.NRGBA {
	i := p.Channels * (y*p.Width + x)
	return color.NRGBA{p.Pixels[i], p.Pixels[i+1], p.Pixels[i+2], 255}
}

// Padding continues an image by its reflection, and the cut returns exactly what was sent, from one pixel on.
func TestPaddingReflectsAndIsCutOff(t *testing.T) {
	c := config()
	c.Size, c.Fit, c.MultipleOf = settings.Size{}, settings.Pad, 32
	codec := newCodec(t, c)
	for side := 1; side <= 70; side++ {
		for _, size := range [][2]int{{side, 71 - side}, {side, side}} {
			sent, file := noiseImage(t, size[0], size[1])
			in, err := codec.Prepare(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := codec.Decode(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if w, h := (sent.Width+31)/32*32, (sent.Height+31)/32*32; got.Width != w || got.Height != h {
				t.Fatalf("%dx%d became %dx%d, want %dx%d", sent.Width, sent.Height, got.Width, got.Height, w, h)
			}
			back := func(i, n int) int { // walks to the end and back again
				at, step := 0, 1
				for range i {
					if at+step < 0 || at+step >= n {
						step = -step
					}
					if n > 1 {
						at += step
					}
				}
				return at
			}
			for y := range got.Height {
				for x := range got.Width {
					if g, w := at(got, x, y), at(sent, back(x, sent.Width), back(y, sent.Height)); g != w {
						t.Fatalf("%dx%d: pixel %d, %d is %v, want %v", sent.Width, sent.Height, x, y, g, w)
					}
				}
			}
			frame := in.Frame()
			frame.CutOutput(&got)
			if got.Width != sent.Width || got.Height != sent.Height || !bytes.Equal(got.Pixels, sent.Pixels) {
				t.Fatalf("%dx%d: the cut isn't the sent image", sent.Width, sent.Height)
			}
		}
	}
}

// With a fixed size, the image's part of the model's input is the resized image, and what is beside it depends on the fit.
func TestFitsOfAFixedSize(t *testing.T) {
	sent, file := noiseImage(t, 40, 20)
	for _, test := range []struct {
		fit    settings.Fit
		size   settings.Size
		scaled settings.Size   // of the whole image
		part   image.Rectangle // of the input
		sent   settings.Size
		beside color.NRGBA // at 0, 0; only with letterbox
	}{
		{settings.Stretch, settings.Size{Width: 16, Height: 16}, settings.Size{Width: 16, Height: 16}, image.Rect(0, 0, 16, 16), settings.Size{Width: 40, Height: 20}, color.NRGBA{}},
		{settings.Pad, settings.Size{Width: 16, Height: 16}, settings.Size{Width: 16, Height: 8}, image.Rect(0, 0, 16, 8), settings.Size{Width: 40, Height: 20}, color.NRGBA{}},
		{settings.Letterbox, settings.Size{Width: 16, Height: 16}, settings.Size{Width: 16, Height: 8}, image.Rect(0, 4, 16, 12), settings.Size{Width: 40, Height: 20}, color.NRGBA{9, 9, 9, 255}},
		{settings.Letterbox, settings.Size{Width: 90, Height: 40}, settings.Size{Width: 80, Height: 40}, image.Rect(5, 0, 85, 40), settings.Size{Width: 40, Height: 20}, color.NRGBA{9, 9, 9, 255}},
		{settings.Crop, settings.Size{Width: 16, Height: 16}, settings.Size{Width: 32, Height: 16}, image.Rect(0, 0, 16, 16), settings.Size{Width: 20, Height: 20}, color.NRGBA{}},
		{settings.Crop, settings.Size{Width: 60, Height: 10}, settings.Size{Width: 60, Height: 30}, image.Rect(0, 0, 60, 10), settings.Size{Width: 40, Height: 7}, color.NRGBA{}},
	} {
		c := config()
		c.Size, c.Fit, c.Fill = test.size, test.fit, 9
		codec := newCodec(t, c)
		in, err := codec.Prepare(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := codec.Decode(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if got.Width != test.size.Width || got.Height != test.size.Height {
			t.Errorf("%s: the input is %dx%d, want %v", test.fit, got.Width, got.Height, test.size)
		}
		frame := in.Frame()
		if frame.Part != test.part || frame.Sent != test.sent {
			t.Errorf("%s of %v: part %v of %v, want %v of %v", test.fit, test.size, frame.Part, frame.Sent, test.part, test.sent)
		}
		if test.fit == settings.Letterbox && at(got, 0, 0) != test.beside {
			t.Errorf("letterbox: got %v beside the image, want %v", at(got, 0, 0), test.beside)
		}
		if test.fit == settings.Pad && at(got, 3, 8) != at(got, 3, 6) {
			t.Errorf("pad: got %v below the image, want its reflection, %v", at(got, 3, 8), at(got, 3, 6))
		}
		scaled := make([]byte, 3*test.scaled.Width*test.scaled.Height)
		if err := torch.Resize(sent.Pixels, 40, 20, 3, torch.Upright, c.ResizeFilter, test.scaled.Width, test.scaled.Height, scaled); err != nil {
			t.Fatal(err)
		}
		whole := imagecodec.Image{Width: test.scaled.Width, Height: test.scaled.Height, Channels: 3, Pixels: scaled}
		left, top := 0, 0
		if test.fit == settings.Crop {
			left, top = (whole.Width-got.Width)/2, (whole.Height-got.Height)/2
		}
		for y := test.part.Min.Y; y < test.part.Max.Y; y++ {
			for x := test.part.Min.X; x < test.part.Max.X; x++ {
				if g, w := at(got, x, y), at(whole, left+x-test.part.Min.X, top+y-test.part.Min.Y); g != w {
					t.Fatalf("%s of %v: pixel %d, %d is %v, want %v", test.fit, test.size, x, y, g, w)
				}
			}
		}
	}
}

// An image whose resized size would be enormous is refused by its header.
func TestCropOfALongImageIsRefused(t *testing.T) {
	c := config()
	c.Fit = settings.Crop
	_, file := noiseImage(t, 2, 20000)
	_, err := newCodec(t, c).Prepare(file)
	expectReason(t, err, imagecodec.TooManyPixels, "too many pixels: 228x2280000 is more than")
}

func TestCutOutputOfOtherScales(t *testing.T) {
	for _, test := range []struct{ output, want settings.Size }{
		{settings.Size{Width: 64, Height: 64}, settings.Size{Width: 34, Height: 6}},
		{settings.Size{Width: 8, Height: 8}, settings.Size{Width: 4, Height: 1}},
		{settings.Size{Width: 1, Height: 1}, settings.Size{Width: 1, Height: 1}},
	} {
		frame := imagecodec.Frame{Width: 32, Height: 32, Part: image.Rect(0, 0, 17, 3)}
		out := imagecodec.Image{Width: test.output.Width, Height: test.output.Height, Channels: 1, Pixels: make([]byte, test.output.Width*test.output.Height)}
		if frame.CutOutput(&out); out.Width != test.want.Width || out.Height != test.want.Height || len(out.Pixels) != out.Width*out.Height {
			t.Errorf("%v: %dx%d, want %v", test.output, out.Width, out.Height, test.want)
		}
	}
}

func TestResultSizes(t *testing.T) {
	sizeOf := func(text string) settings.AnswerSize {
		var size settings.AnswerSize
		if err := size.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return size
	}
	frame := imagecodec.Frame{Width: 32, Height: 32, Part: image.Rect(0, 0, 32, 16), Sent: settings.Size{Width: 100, Height: 50}}
	for _, test := range []struct {
		kind  settings.OutputKind
		size  string
		scale int
		want  settings.Size
	}{
		{settings.Image, "model", 0, settings.Size{Width: 32, Height: 16}},
		{settings.Image, "model", 2, settings.Size{Width: 64, Height: 32}},
		{settings.Image, "sent", 0, settings.Size{Width: 100, Height: 50}},
		{settings.Image, "sent", 1, settings.Size{Width: 100, Height: 50}},
		{settings.Image, "sent", 4, settings.Size{Width: 400, Height: 200}},
		{settings.Image, "7x9", 4, settings.Size{Width: 7, Height: 9}},
		{settings.Alpha, "model", 2, settings.Size{Width: 100, Height: 50}},
		{settings.Alpha, "sent", 2, settings.Size{Width: 100, Height: 50}},
	} {
		c := config()
		c.Output = test.kind
		answer := imagecodec.Answer{Size: sizeOf(test.size), Scale: test.scale}
		if got := newCodec(t, c).ResultSize(&frame, answer); got != test.want {
			t.Errorf("%s of %s, scale %d: %v, want %v", test.size, test.kind, test.scale, got, test.want)
		}
	}
	c := config()
	c.MaxPixels = 10000
	codec := newCodec(t, c)
	check := func(size string, scale int, format settings.Format) error {
		return codec.CheckResult(&frame, imagecodec.Answer{Size: sizeOf(size), Scale: scale}, format)
	}
	expectReason(t, check("101x100", 0, settings.PNG), imagecodec.TooManyPixels, "the result of 101x100 is more than 10000 pixels: ask for a smaller size")
	expectReason(t, check("sent", 2, settings.PNG), imagecodec.TooManyPixels, "the result of 200x100")
	expectReason(t, check("16400x1", 0, settings.WebP), imagecodec.TooManyPixels, "16400x1")
	if err := errors.Join(check("100x100", 0, settings.PNG), check("model", 8, settings.PNG)); err != nil {
		t.Error(err)
	}
	c.MaxPixels = imagecodec.DefaultMaxPixels
	codec = newCodec(t, c)
	expectReason(t, check("16400x1", 0, settings.WebP), imagecodec.TooLong, "the result of 16400x1 pixels is too long for WebP")
	frame.Part = image.Rect(0, 0, 2, 2)
	expectReason(t, check("9000x9000", 0, settings.JPEG), imagecodec.TooMuchWork, "enlarging a result of 2x2 pixels to 9000x9000")
}

// A result is resized by the model's filter, class numbers by the nearest, and the colours of transparent pixels don't show.
func TestResizeResult(t *testing.T) {
	c := config()
	rgb, _ := noiseImage(t, 20, 10)
	size := settings.Size{Width: 33, Height: 7}
	want := make([]byte, 3*size.Width*size.Height)
	if err := torch.Resize(rgb.Pixels, 20, 10, 3, torch.Upright, c.ResizeFilter, size.Width, size.Height, want); err != nil {
		t.Fatal(err)
	}
	got, err := newCodec(t, c).ResizeResult(t.Context(), rgb, size)
	if err != nil || !bytes.Equal(got.Pixels, want) {
		t.Errorf("RGB: not the resized image, %v", err)
	}

	gray := imagecodec.Image{Width: 20, Height: 10, Channels: 1, Pixels: goldens.Noise(1, 200)}
	got, err = newCodec(t, c).ResizeResult(t.Context(), gray, settings.Size{Width: 40, Height: 20})
	if err != nil || got.Channels != 1 || len(got.Pixels) != 800 {
		t.Fatalf("gray: %dx%d with %d channels, %v", got.Width, got.Height, got.Channels, err)
	}
	for i := range gray.Pixels {
		gray.Pixels[i] %= 2
		gray.Pixels[i] *= 255
	}
	c.Output = settings.Classes
	got, err = newCodec(t, c).ResizeResult(t.Context(), gray, settings.Size{Width: 33, Height: 25})
	if err != nil {
		t.Fatal(err)
	}
	for i, class := range got.Pixels {
		if class != 0 && class != 255 {
			t.Fatalf("class %d at %d: two classes were mixed", class, i)
		}
	}

	c.Output = settings.Image
	halves := imagecodec.Image{Width: 8, Height: 1, Channels: 4}
	for x := range 8 {
		pixel := []byte{200, 100, 50, 255}
		if x >= 4 {
			pixel = []byte{0, 255, 0, 0} // transparent
		}
		halves.Pixels = append(halves.Pixels, pixel...)
	}
	got, err = newCodec(t, c).ResizeResult(t.Context(), halves, settings.Size{Width: 3, Height: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range []byte{200, 100, 50} {
		if d := int(got.Pixels[4+i]) - int(v); d < -2 || d > 2 { // of 8 bits, weighted by an alpha of about a half
			t.Errorf("the middle pixel is %v, want the opaque colour", got.Pixels[4:8])
		}
	}
	if a := got.Pixels[7]; a < 100 || a > 155 {
		t.Errorf("the middle pixel's alpha is %d, want about a half", a)
	}

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newCodec(t, c).ResizeResult(cancelled, rgb, size); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.MaxPixels = 100
	_, err = newCodec(t, c).ResizeResult(t.Context(), rgb, settings.Size{Width: 21, Height: 10})
	expectReason(t, err, imagecodec.TooManyPixels, "the result of 21x10 is more than 100 pixels")
}

// tiled returns an image of a size and its tiling.
func tiled(t *testing.T, c imagecodec.Config, width, height int) (*imagecodec.Codec, imagecodec.Image, *imagecodec.Tiling) {
	t.Helper()
	codec := newCodec(t, c)
	sent, file := noiseImage(t, width, height)
	in, err := codec.Prepare(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := codec.Decode(t.Context(), in)
	if err != nil || in.Tiling() != nil && !bytes.Equal(got.Pixels, sent.Pixels) {
		t.Fatalf("%dx%d: the decoded image isn't the sent one, %v", width, height, err)
	}
	return codec, got, in.Tiling()
}

func tileConfig(tile, overlap, multipleOf int) imagecodec.Config {
	s := settings.Settings{Tile: tile, Overlap: overlap, MultipleOf: multipleOf}
	c := config()
	c.Size, c.Fit, c.MultipleOf = settings.Size{}, settings.Pad, multipleOf
	c.Tile, c.TileStride, c.Overlap = tile, s.TileStride(), overlap
	return c
}

// Tiles that the model doesn't change, or enlarges, join to the image, at every size.
func TestTilesJoinToTheImage(t *testing.T) {
	for _, g := range [][3]int{{32, 8, 0}, {32, 7, 0}, {32, 0, 0}, {32, 8, 8}, {24, 3, 8}, {64, 12, 16}} {
		for _, size := range [][2]int{{g[0] + 1, 1}, {1, g[0] + 1}, {33, 40}, {65, 33}, {100, 70}, {129, 5}, {97, 131}} {
			for _, scale := range []int{1, 2} {
				name := fmt.Sprintf("tiles of %d, overlap %d, multiple of %d; %dx%d, scale %d", g[0], g[1], g[2], size[0], size[1], scale)
				codec, img, tiling := tiled(t, tileConfig(g[0], g[1], g[2]), size[0], size[1])
				if tiling == nil {
					if max(size[0], size[1]) > g[0] {
						t.Errorf("%s: no tiles", name)
					}
					continue
				}
				mosaic := codec.NewMosaic(tiling)
				for from := 0; from < tiling.Count(); from += 3 {
					tiles, err := codec.Cut(t.Context(), tiling, img, from, min(from+3, tiling.Count()))
					if err != nil {
						t.Fatal(err)
					}
					for i := range tiles {
						tiles[i] = enlarged(tiles[i], scale)
					}
					if err := mosaic.Add(t.Context(), tiles); err != nil {
						t.Fatal(err)
					}
				}
				got, want := mosaic.Result(), enlarged(img, scale)
				if got.Width != want.Width || got.Height != want.Height || !bytes.Equal(got.Pixels, want.Pixels) {
					t.Errorf("%s: the result of %dx%d isn't the image", name, got.Width, got.Height)
				}
				mosaic.Close()
			}
		}
	}
}

// enlarged repeats pixels.
func enlarged(p imagecodec.Image, scale int) imagecodec.Image {
	out := imagecodec.Image{Width: scale * p.Width, Height: scale * p.Height, Channels: p.Channels}
	for y := range out.Height {
		for x := range out.Width {
			out.Pixels = append(out.Pixels, p.Pixels[p.Channels*(y/scale*p.Width+x/scale):][:p.Channels]...)
		}
	}
	return out
}

// Over the seam, one tile's result turns into the next one's in even steps, and each tile alone decides what is outside.
func TestSeamsAreBlended(t *testing.T) {
	for kind, channels := range map[settings.OutputKind]int{settings.Image: 1, settings.Classes: 1, settings.Chroma: 4} {
		c := tileConfig(32, 8, 0)
		c.Output = kind
		codec := newCodec(t, c)
		_, file := noiseImage(t, 48, 20) // tiles begin at 0 and 16; the seam is 20 to 28
		in, err := codec.Prepare(file)
		if err != nil {
			t.Fatal(err)
		}
		mosaic := codec.NewMosaic(in.Tiling())
		var outputs []imagecodec.Image
		for number := range in.Tiling().Count() {
			out := imagecodec.Image{Width: 32, Height: 20, Channels: channels, Pixels: make([]byte, 32*20*channels)}
			for i := range out.Pixels {
				out.Pixels[i] = byte(160 * number)
				if kind == settings.Chroma { // -1 and 159 of 16 bits
					out.Pixels[i] = [][2]byte{{255, 255}, {159, 0}}[number][i%2]
				}
			}
			outputs = append(outputs, out)
		}
		if len(outputs) != 2 {
			t.Fatalf("%d tiles, want 2", len(outputs))
		}
		if err := mosaic.Add(t.Context(), outputs); err != nil {
			t.Fatal(err)
		}
		got := mosaic.Result()
		for x := range 48 {
			want := min(max(0, (x-20)*20+10), 160)
			switch kind {
			case settings.Classes:
				if want = 0; x >= 24 {
					want = 160
				}
			case settings.Chroma:
				want--
			}
			for y := range 20 {
				at := channels * (48*y + x)
				value := int(got.Pixels[at])
				if kind == settings.Chroma {
					value = int(int16(uint16(got.Pixels[at+2]) | uint16(got.Pixels[at+3])<<8))
				}
				if value != want {
					t.Fatalf("%s: column %d is %d, want %d", kind, x, value, want)
				}
			}
		}
	}
}

func TestOutputsThatCannotBeJoined(t *testing.T) {
	codec, img, tiling := tiled(t, tileConfig(32, 8, 0), 50, 20)
	var unfit *imagecodec.OutputError
	for name, outputs := range map[string][]imagecodec.Image{
		"half":      {{Width: 16, Height: 10, Channels: 1}},
		"stretched": {{Width: 64, Height: 20, Channels: 1}},
		"differ":    {{Width: 32, Height: 20, Channels: 1}, {Width: 64, Height: 40, Channels: 1}},
	} {
		for i := range outputs {
			outputs[i].Pixels = make([]byte, outputs[i].Width*outputs[i].Height)
		}
		mosaic := codec.NewMosaic(tiling)
		if err := mosaic.Add(t.Context(), outputs); !errors.As(err, &unfit) {
			t.Errorf("%s: %v, want an OutputError", name, err)
		}
		mosaic.Close()
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := codec.Cut(cancelled, tiling, img, 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
