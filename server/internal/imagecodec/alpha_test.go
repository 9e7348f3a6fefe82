package imagecodec_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"slices"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// pngOfNoise returns a PNG of 13x11 random pixels.
func pngOfNoise(depth, kind, interlace byte, before []byte) []byte {
	const w, h = 13, 11
	channels := map[byte]int{0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
	passes := [][4]int{{0, 0, 1, 1}}
	if interlace == 1 {
		passes = [][4]int{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}
	}
	var rows []byte
	noise := goldens.Noise(3, 1<<14)
	for _, p := range passes {
		width, height := (w-p[0]+p[2]-1)/p[2], (h-p[1]+p[3]-1)/p[3]
		for range height {
			n := (width*channels*int(depth) + 7) / 8
			rows, noise = append(append(rows, 0), noise[:n]...), noise[n:]
		}
	}
	file := pngOf(w, h, depth, kind, interlace, deflated(rows))
	if kind == 3 { // with colours for all indices
		at := bytes.Index(file, []byte("PLTE")) - 4
		file = slices.Concat(file[:at], pngChunk("PLTE", goldens.Noise(5, 3<<depth)), file[at+12+3:])
	}
	at := bytes.Index(file, []byte("IDAT")) - 4
	return slices.Concat(file[:at], before, file[at:])
}

// The alpha of each kind of PNG is that of Go's decoder, and the colours are those that a dropped alpha leaves.
func TestAlphaOfEachPNG(t *testing.T) {
	codec, dropping := keeping(t, func(c *imagecodec.Config) { c.Alpha.Keep = true }), keeping(t, nil)
	for _, kind := range []struct {
		depth, kind  byte
		transparency []byte
	}{
		{8, 6, nil}, {16, 6, nil}, {8, 4, nil}, {16, 4, nil},
		{8, 3, []byte{0, 7, 100, 255, 90}}, {4, 3, []byte{0, 7, 100, 255, 90}}, {1, 3, []byte{9}}, {2, 3, []byte{1, 2, 3, 4}},
		{1, 0, []byte{0, 1}}, {2, 0, []byte{0, 2}}, {4, 0, []byte{0, 9}}, {8, 0, []byte{0, goldens.Noise(3, 1)[0]}},
		{16, 0, goldens.Noise(3, 2)}, {8, 2, []byte{0, goldens.Noise(3, 3)[0], 0, goldens.Noise(3, 3)[1], 0, goldens.Noise(3, 3)[2]}},
		{16, 2, goldens.Noise(3, 6)},
	} {
		for _, interlace := range []byte{0, 1} {
			name := fmt.Sprintf("%d bits, kind %d, interlace %d", kind.depth, kind.kind, interlace)
			var before []byte
			if kind.transparency != nil {
				before = pngChunk("tRNS", kind.transparency)
			}
			file := pngOfNoise(kind.depth, kind.kind, interlace, before)
			want, err := png.Decode(bytes.NewReader(file))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := decode(t, codec, file)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			plain, err := decode(t, dropping, file)
			if err != nil || !bytes.Equal(plain.Pixels, got.Pixels) || !plain.Opaque() {
				t.Errorf("%s: other colours than without alpha, %v", name, err)
			}
			joined, err := codec.WithAlpha(t.Context(), imagecodec.Image{Width: got.Width, Height: got.Height, Channels: 3, Pixels: bytes.Clone(got.Pixels)}, got, settings.PNG)
			if err != nil || joined.Channels != 4 {
				t.Fatalf("%s: %d channels, %v", name, joined.Channels, err)
			}
			transparent := false
			for i := range joined.Width * joined.Height {
				_, _, _, a := want.At(i%joined.Width, i/joined.Width).RGBA()
				transparent = transparent || a != 0xffff
				if joined.Pixels[4*i+3] != byte(a>>8) {
					t.Errorf("%s: alpha %d of pixel %d, want %d", name, joined.Pixels[4*i+3], i, a>>8)
					break
				}
			}
			if !transparent {
				t.Errorf("%s: nothing is transparent", name)
			}
		}
	}
}

// Alpha is turned and resized as its image is, and put back at the size of the result.
func TestAlphaIsResized(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 8, 4))
	for x := range 8 {
		for y := range 4 {
			img.SetNRGBA(x, y, color.NRGBA{200, 100, 50, byte(255 * (x / 4))}) // the left half is transparent
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	file := slices.Concat(b.Bytes()[:33], pngChunk("eXIf", turned(6)), b.Bytes()[33:]) // then the upper half is
	codec := newCodec(t, func() imagecodec.Config {
		c := config()
		c.Size, c.Alpha.Keep = settings.Size{Width: 16, Height: 16}, true
		return c
	}())
	got, err := decode(t, codec, file)
	if err != nil {
		t.Fatal(err)
	}
	result := imagecodec.Image{Width: 32, Height: 48, Channels: 3, Pixels: make([]byte, 32*48*3)}
	joined, err := codec.WithAlpha(t.Context(), result, got, settings.PNG)
	if err != nil || joined.Width != 32 || joined.Height != 48 {
		t.Fatal(joined.Width, joined.Height, err)
	}
	alpha := func(x, y int) byte { return joined.Pixels[4*(y*32+x)+3] }
	if alpha(0, 0) != 0 || alpha(31, 10) != 0 || alpha(0, 40) != 255 || alpha(31, 47) != 255 {
		t.Errorf("alpha %d %d above, %d %d below", alpha(0, 0), alpha(31, 10), alpha(0, 40), alpha(31, 47))
	}
}

// Over a colour, each pixel is mixed with it by its alpha before the resize.
func TestAlphaOverAColour(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 3, 1))
	img.SetNRGBA(0, 0, color.NRGBA{10, 20, 30, 0})
	img.SetNRGBA(1, 0, color.NRGBA{10, 20, 30, 255})
	img.SetNRGBA(2, 0, color.NRGBA{0, 100, 200, 51}) // a fifth
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	codec := keeping(t, func(c *imagecodec.Config) {
		c.Alpha = settings.AlphaMode{Flat: true, Over: [3]uint8{255, 0, 100}}
	})
	got, err := decode(t, codec, b.Bytes())
	if want := []byte{255, 0, 100, 10, 20, 30, 204, 20, 120}; err != nil || !bytes.Equal(got.Pixels, want) {
		t.Errorf("%v, want %v, %v", got.Pixels, want, err)
	}
	opaque := pngWith(t, nil, nil)
	got, err = decode(t, codec, opaque)
	if want := []byte{255, 60, 60, 60, 255, 60, 60, 60, 255}; err != nil || !bytes.Equal(got.Pixels, want) {
		t.Errorf("an opaque image: %v, %v", got.Pixels, err)
	}
}
