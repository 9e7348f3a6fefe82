package imagecodec_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/gif"
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

// alphaOf returns the alpha of each pixel of an image whose alpha is kept.
func alphaOf(t *testing.T, codec *imagecodec.Codec, file []byte) []byte {
	t.Helper()
	got, err := decode(t, codec, file)
	if err != nil {
		t.Fatal(err)
	}
	if got.Opaque() {
		t.Fatal("the image has no alpha")
	}
	joined, err := codec.WithAlpha(t.Context(), imagecodec.Image{Width: got.Width, Height: got.Height, Channels: 3, Pixels: bytes.Clone(got.Pixels)}, got, settings.PNG)
	if err != nil || joined.Channels != 4 {
		t.Fatalf("%d channels, %v", joined.Channels, err)
	}
	alpha := make([]byte, joined.Width*joined.Height)
	for i := range alpha {
		alpha[i] = joined.Pixels[4*i+3]
	}
	return alpha
}

// A GIF's transparent index and what lies outside of its frame are transparent.
func TestAlphaOfGIF(t *testing.T) {
	codec := keeping(t, func(c *imagecodec.Config) { c.Alpha.Keep = true })
	const width, height = 9, 13
	palette := color.Palette{color.NRGBA{255, 0, 0, 255}, color.NRGBA{}, color.NRGBA{0, 0, 255, 255}}
	frame := image.NewPaletted(image.Rect(2, 3, 8, 12), palette)
	for i := range frame.Pix {
		frame.Pix[i] = uint8(i * i % 3)
	}
	var b bytes.Buffer
	animation := gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: width, Height: height}}
	if err := gif.EncodeAll(&b, &animation); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, width*height)
	for y := range height {
		for x := range width {
			if (image.Point{x, y}).In(frame.Rect) && frame.ColorIndexAt(x, y) != 1 {
				want[y*width+x] = 255
			}
		}
	}
	if got := alphaOf(t, codec, b.Bytes()); !bytes.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	opaque, err := decode(t, codec, blackGIF(5, 5, false))
	if err != nil || !opaque.Opaque() {
		t.Errorf("a GIF without a transparent index has alpha, %v", err)
	}
}

// The alpha of a BMP is what its fourth mask says. Without one, the fourth byte of a pixel means nothing.
func TestAlphaOfBMP(t *testing.T) {
	codec := keeping(t, func(c *imagecodec.Config) { c.Alpha.Keep = true })
	for _, c := range []struct {
		header int // bytes
		mask   uint32
		want   []byte // of the pixels from the top; nil: no alpha
	}{
		{124, 0xff000000, []byte{0x80, 0xff, 0x00, 0x07}},
		{56, 0xf0000000, []byte{0x88, 0xff, 0x00, 0x00}},
		{56, 0, nil},
		{52, 0xff000000, nil}, // which has no room for the mask
	} {
		info := make([]byte, c.header)
		le := binary.LittleEndian
		le.PutUint32(info, uint32(c.header))
		le.PutUint32(info[4:], 2)
		le.PutUint32(info[8:], 2)
		le.PutUint16(info[12:], 1)
		le.PutUint16(info[14:], 32)
		le.PutUint32(info[16:], 3)
		for i, mask := range []uint32{0xff0000, 0xff00, 0xff, c.mask} {
			if at := 40 + 4*i; at < len(info) {
				le.PutUint32(info[at:], mask)
			}
		}
		head := make([]byte, 14)
		copy(head, "BM")
		le.PutUint32(head[10:], uint32(len(head)+len(info)))
		file := slices.Concat(head, info, []byte{1, 2, 3, 0x00, 4, 5, 6, 0x07, 7, 8, 9, 0x80, 10, 11, 12, 0xff}) // from the bottom
		if c.want == nil {
			if got, err := decode(t, codec, file); err != nil || !got.Opaque() {
				t.Errorf("%d bytes of header, mask %#x: alpha, %v", c.header, c.mask, err)
			}
			continue
		}
		if got := alphaOf(t, codec, file); !bytes.Equal(got, c.want) {
			t.Errorf("%d bytes of header, mask %#x: %v, want %v", c.header, c.mask, got, c.want)
		}
	}
}

// The files of testdata/formats with alpha all have the same, in PNG by the decoder that is tested above.
func TestAlphaOfOtherFormats(t *testing.T) {
	codec := keeping(t, func(c *imagecodec.Config) { c.Alpha.Keep = true })
	want := alphaOf(t, codec, formatFile("gray-alpha.png")())
	for _, name := range []string{"lossy-alpha.webp", "lossless-alpha.webp", "gray-alpha.tiff", "gray-alpha.jp2", "rgba.jp2", "alpha.avif"} {
		t.Run(name, func(t *testing.T) {
			got := alphaOf(t, codec, formatFile(name)())
			most := 0
			if name == "alpha.avif" { // lossy, 1 level in Pillow too
				most = 1
			}
			if largest, _ := goldens.Difference(got, want); largest > most {
				t.Errorf("%v, want %v", got[:48], want[:48])
			}
		})
	}
	// Around the first frame of an animation nothing has been drawn.
	alpha := alphaOf(t, codec, formatFile("webp-animated-offset.webp")())
	if transparent := bytes.Count(alpha, []byte{0}); transparent == 0 || transparent == len(alpha) {
		t.Errorf("%d of %d pixels are transparent", transparent, len(alpha))
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
	// The colour is sRGB, whatever the image's are.
	displayP3 := slices.Concat(b.Bytes()[:33], pngChunk("cICP", []byte{12, 13, 0, 1}), b.Bytes()[33:])
	converted, err := decode(t, keeping(t, nil), displayP3)
	if err != nil {
		t.Fatal(err)
	}
	got, err = decode(t, codec, displayP3)
	if want := append([]byte{255, 0, 100}, converted.Pixels[3:6]...); err != nil || !bytes.Equal(got.Pixels[:6], want) || bytes.Equal(want[3:], []byte{10, 20, 30}) {
		t.Errorf("Display P3: %v, want %v, %v", got.Pixels, want, err)
	}
	opaque := pngWith(t, nil, nil)
	got, err = decode(t, codec, opaque)
	if want := []byte{255, 60, 60, 60, 255, 60, 60, 60, 255}; err != nil || !bytes.Equal(got.Pixels, want) {
		t.Errorf("an opaque image: %v, %v", got.Pixels, err)
	}
}
