package imagecodec_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

func config() imagecodec.Config {
	return imagecodec.Config{
		Slots: cpu.NewSlots(2), Weight: 1, MaxPixels: imagecodec.DefaultMaxPixels,
		Size: settings.Size{Width: 228, Height: 228}, Quality: 75,
	}
}

func newCodec(t testing.TB, c imagecodec.Config) *imagecodec.Codec {
	t.Helper()
	codec, err := imagecodec.NewCodec(c)
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

// decode prepares and decodes a file.
func decode(t testing.TB, codec *imagecodec.Codec, data []byte) (imagecodec.Image, error) {
	return decodeUntil(t.Context(), codec, data)
}

func decodeUntil(ctx context.Context, codec *imagecodec.Codec, data []byte) (imagecodec.Image, error) {
	in, err := codec.Prepare(data)
	if err != nil {
		return imagecodec.Image{}, err
	}
	return codec.Decode(ctx, in)
}

func expectReason(t *testing.T, err error, reason imagecodec.Reason, text string) {
	t.Helper()
	var failure *imagecodec.Error
	if !errors.As(err, &failure) || failure.Reason != reason || !strings.Contains(failure.Text, text) {
		t.Errorf("got %v instead of an error with reason %d and %q", err, reason, text)
	}
}

// The pixels equal those of the Sanic demo, which uses Pillow: every value, for every format.
func TestInputEqualsPillow(t *testing.T) {
	codec := newCodec(t, config())
	for _, p := range goldens.Load(t).Images {
		t.Run(p.Name, func(t *testing.T) {
			got, err := decode(t, codec, goldens.Read(t, p.File))
			if p.Expect != "ok" {
				expectReason(t, err, imagecodec.NotRGB, p.Expect)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Width != 228 || got.Height != 228 || got.Channels != 3 {
				t.Fatalf("%dx%d with %d channels", got.Width, got.Height, got.Channels)
			}
			if largest, equal := goldens.Difference(got.Pixels, goldens.RGB(t, p.Input)); equal < 1 {
				t.Errorf("differs by up to %d, %.3f %% of values are equal", largest, 100*equal)
			}
		})
	}
}

// With size: keep an image keeps the size that it has after its EXIF turn.
func TestKeepSize(t *testing.T) {
	c := config()
	c.Size = settings.Size{}
	codec := newCodec(t, c)
	for _, p := range goldens.Load(t).Images {
		if p.Expect != "ok" {
			continue
		}
		got, err := decode(t, codec, goldens.Read(t, p.File))
		if err != nil || got.Width != p.Width || got.Height != p.Height {
			t.Errorf("%s: %dx%d instead of %dx%d, %v", p.Name, got.Width, got.Height, p.Width, p.Height, err)
		}
	}
	sideways, err := decode(t, codec, goldens.Read(t, "pictures/exif-6.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	c.EXIF = settings.Ignore
	stored, err := decode(t, newCodec(t, c), goldens.Read(t, "pictures/exif-6.jpg"))
	if err != nil || stored.Width != sideways.Height || stored.Height != sideways.Width {
		t.Errorf("as stored: %dx%d, turned: %dx%d, %v", stored.Width, stored.Height, sideways.Width, sideways.Height, err)
	}
}

func TestTarget(t *testing.T) {
	for _, test := range []struct {
		config        imagecodec.Config
		width, height int
		wantW, wantH  int
	}{
		{imagecodec.Config{}, 3, 5, 3, 5},
		{imagecodec.Config{Size: settings.Size{Width: 64, Height: 32}}, 3, 5, 64, 32},
		{imagecodec.Config{MultipleOf: 1}, 3, 5, 3, 5},
		{imagecodec.Config{MultipleOf: 8}, 228, 227, 232, 224}, // halves are rounded up
		{imagecodec.Config{MultipleOf: 8}, 227, 229, 224, 232},
		{imagecodec.Config{MultipleOf: 8}, 8, 16, 8, 16},
		{imagecodec.Config{MultipleOf: 8}, 1, 3, 8, 8}, // at least one multiple
		{imagecodec.Config{MultipleOf: 3}, 4, 5, 3, 6},
		{imagecodec.Config{MaxSide: 100}, 100, 99, 100, 99},
		{imagecodec.Config{MaxSide: 100}, 200, 100, 100, 50},
		{imagecodec.Config{MaxSide: 100}, 300, 200, 100, 67},
		{imagecodec.Config{MaxSide: 100}, 200, 300, 67, 100},
		{imagecodec.Config{MaxSide: 100}, 400, 2, 100, 1}, // halves are rounded up
		{imagecodec.Config{MaxSide: 100}, 65500, 1, 100, 1},
		{imagecodec.Config{MaxSide: 1}, 7, 9, 1, 1},
		{imagecodec.Config{MaxSide: 100, MultipleOf: 32}, 100, 100, 96, 96},
		{imagecodec.Config{MaxSide: 100, MultipleOf: 32}, 1000, 500, 96, 64},
		{imagecodec.Config{MaxSide: 127, MultipleOf: 32}, 127, 113, 96, 96}, // 128 is nearer but too large
		{imagecodec.Config{MaxSide: 128, MultipleOf: 32}, 127, 113, 128, 128},
		{imagecodec.Config{MaxSide: 32, MultipleOf: 32}, 1, 5000, 32, 32},
	} {
		if w, h := test.config.Target(test.width, test.height); w != test.wantW || h != test.wantH {
			t.Errorf("max-side %d, multiple-of %d: %dx%d became %dx%d instead of %dx%d",
				test.config.MaxSide, test.config.MultipleOf, test.width, test.height, w, h, test.wantW, test.wantH)
		}
	}
}

// For each format the target size is computed from the turned image.
func TestKeepNearlyTheSize(t *testing.T) {
	c := config()
	c.Size, c.MultipleOf, c.MaxSide = settings.Size{}, 16, 100
	codec := newCodec(t, c)
	for _, p := range goldens.Load(t).Images {
		if p.Expect != "ok" {
			continue
		}
		got, err := decode(t, codec, goldens.Read(t, p.File))
		if w, h := c.Target(p.Width, p.Height); err != nil || got.Width != w || got.Height != h || len(got.Pixels) != 3*w*h {
			t.Errorf("%s: %dx%d instead of %dx%d, %v", p.Name, got.Width, got.Height, w, h, err)
		}
	}
}

// The pixel limit holds for the resized image too.
func TestPixelLimitOfTheTarget(t *testing.T) {
	c := config()
	c.Size, c.MultipleOf, c.MaxPixels = settings.Size{}, 64, 64*128-1
	codec := newCodec(t, c)
	line := make([]byte, torch.JPEGBound(128, 1, 3))
	n, err := torch.EncodeJPEG(make([]byte, 128*3), 128, 1, 3, 75, line)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{line[:n], encodePNG(t, image.NewNRGBA(image.Rect(0, 0, 1, 128)))} {
		_, err := decode(t, codec, data)
		expectReason(t, err, imagecodec.TooManyPixels, "is more than 8191 pixels")
	}
	c.MaxPixels++
	if _, err := decode(t, newCodec(t, c), line[:n]); err != nil {
		t.Error(err)
	}
}

// The filter applies to JPEG, which is resized in C, and to formats decoded in Go.
func TestFilter(t *testing.T) {
	c := config()
	c.Size, c.ResizeFilter = settings.Size{Width: 20, Height: 30}, torch.Nearest
	for _, name := range []string{"jpeg-420.jpg", "png-rgb.png"} {
		file := goldens.Read(t, "pictures/"+name)
		whole := config()
		whole.Size = settings.Size{}
		source, err := decode(t, newCodec(t, whole), file)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 20*30*3)
		if err := torch.Resize(source.Pixels, source.Width, source.Height, 3, torch.Upright, torch.Nearest, 20, 30, want); err != nil {
			t.Fatal(err)
		}
		got, err := decode(t, newCodec(t, c), file)
		if err != nil || !bytes.Equal(got.Pixels, want) {
			t.Errorf("%s was not resized by the nearest pixel, %v", name, err)
		}
	}
}

// Grayscale images become the pixels of Pillow's convert("RGB"), and 16-bit images those of the 8-bit ones.
func TestGrayscale(t *testing.T) {
	c := config()
	c.Grayscale = settings.ToRGB
	codec := newCodec(t, c)
	sums := map[string]string{}
	decoded := map[string][]byte{}
	for _, p := range goldens.Load(t).Images {
		if p.Expect == "ok" {
			continue
		}
		got, err := decode(t, codec, goldens.Read(t, p.File))
		if err != nil || got.Channels != 3 {
			t.Fatalf("%s: %d channels, %v", p.Name, got.Channels, err)
		}
		sums[p.Name], decoded[p.Name] = p.GrayInput, got.Pixels
	}
	sums["png-gray16"] = sums["png-gray"]
	for name, pixels := range decoded {
		if sum := sha256.Sum256(pixels); hex.EncodeToString(sum[:]) != sums[name] {
			t.Errorf("%s differs from Pillow's", name)
		}
	}
	if len(decoded) != 5 {
		t.Errorf("%d grayscale images instead of 5", len(decoded))
	}
}

// TIFF, too, has grayscale images of 8 and 16 bits.
func TestGrayscaleOfTIFF(t *testing.T) {
	c := config()
	c.Size = settings.Size{}
	refusing := newCodec(t, c)
	c.Grayscale = settings.ToRGB
	codec := newCodec(t, c)
	gray, gray16 := image.NewGray(image.Rect(0, 0, 3, 2)), image.NewGray16(image.Rect(0, 0, 3, 2))
	for i := range gray.Pix {
		gray.Pix[i] = byte(40 * i)
		gray16.SetGray16(i%3, i/3, color.Gray16{Y: uint16(40*i)<<8 | 0xff})
	}
	for _, img := range []image.Image{gray, gray16} {
		var file bytes.Buffer
		if err := tiff.Encode(&file, img, nil); err != nil {
			t.Fatal(err)
		}
		_, err := decode(t, refusing, file.Bytes())
		expectReason(t, err, imagecodec.NotRGB, "need rgb image")
		got, err := decode(t, codec, file.Bytes())
		want := []byte{0, 0, 0, 40, 40, 40, 80, 80, 80, 120, 120, 120, 160, 160, 160, 200, 200, 200}
		if err != nil || !bytes.Equal(got.Pixels, want) {
			t.Errorf("%T: %v, %v", img, got.Pixels, err)
		}
	}
}

func TestRefusePalette(t *testing.T) {
	c := config()
	c.RefusePalette = true
	codec := newCodec(t, c)
	for _, name := range []string{"png-palette.png", "gif.gif"} {
		_, err := decode(t, codec, goldens.Read(t, "pictures/"+name))
		expectReason(t, err, imagecodec.NotRGB, "need rgb image")
	}
}

func TestNotImages(t *testing.T) {
	codec := newCodec(t, config())
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("hello, herd"), "one byte": {0xff}, "zeros": make([]byte, 1000),
		"svg": []byte("<svg xmlns='http://www.w3.org/2000/svg'/>"), "a model": goldens.Read(t, "modules/negate.pt"),
	} {
		_, err := decode(t, codec, data)
		text := "JPEG, PNG, WebP, AVIF, JPEG 2000, GIF, BMP or TIFF"
		if t.Run(name, func(t *testing.T) { expectReason(t, err, imagecodec.UnknownFormat, text) }); name == "empty" {
			expectReason(t, err, imagecodec.UnknownFormat, "the body is empty")
		}
	}
}

// Every file, cut at every percent of its length, is refused with an error that names its format.
func TestTruncated(t *testing.T) {
	codec := newCodec(t, config())
	for name, complete := range map[string]int{ // the percentage from which on the image may be complete
		"jpeg-420.jpg": 100, "jpeg-progressive.jpg": 100, "jpeg-restart.jpg": 100,
		"png-rgb.png": 100, "png-interlaced.png": 100, "webp-lossy.webp": 100, "webp-lossless.webp": 100, "webp-alpha.webp": 100,
		"gif.gif": 50, // its second frame is not decoded
		"bmp.bmp": 100, "tiff.tiff": 100, "tiff-lzw.tiff": 100, "tiff-deflate.tiff": 100,
	} {
		data := goldens.Read(t, "pictures/"+name)
		format, _, _ := strings.Cut(name, ".")
		format, _, _ = strings.Cut(format, "-")
		for percent := range 100 {
			_, err := decode(t, codec, data[:len(data)*percent/100])
			var failure *imagecodec.Error
			switch {
			case err == nil && percent >= complete:
			case !errors.As(err, &failure):
				t.Errorf("%s at %d %%: %v", name, percent, err)
			case percent > 0 && !strings.Contains(strings.ToLower(failure.Text), "broken "+format):
				t.Errorf("%s at %d %%: the error does not name the format: %v", name, percent, err)
			}
		}
	}
}

// claimingPNG returns a PNG that claims a size but has only a header and an empty chunk of pixels.
func claimingPNG(width, height uint32) []byte {
	chunk := func(kind string, data []byte) []byte {
		out := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
		out = append(append(out, kind...), data...)
		return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[4:]))
	}
	size := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, width), height)
	return slices.Concat([]byte("\x89PNG\r\n\x1a\n"), chunk("IHDR", append(size, 8, 2, 0, 0, 0)), chunk("IDAT", nil))
}

func encodePNG(t testing.TB, img image.Image) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// The pixel limit is checked on the header, before memory is allocated.
func TestPixelLimitIsCheckedOnTheHeader(t *testing.T) {
	codec := newCodec(t, config())
	bombs := map[string][]byte{
		"PNG that claims 4e9x4e9":    claimingPNG(1<<32-1, 1<<32-1),
		"PNG that claims 2e5x1e5":    claimingPNG(200000, 100000),
		"JPEG that claims 65500²":    claim(goldens.Read(t, "pictures/jpeg-420.jpg"), 65500, 65500),
		"progressive JPEG of 65500²": claim(goldens.Read(t, "pictures/jpeg-progressive.jpg"), 65500, 65500),
	}
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := decode(t, codec, bomb)
			runtime.ReadMemStats(&after)
			var failure *imagecodec.Error
			if !errors.As(err, &failure) || failure.Reason != imagecodec.TooManyPixels && failure.Reason != imagecodec.Broken {
				t.Errorf("got %v", err)
			}
			if taken := after.TotalAlloc - before.TotalAlloc; taken > 16<<20 {
				t.Errorf("%d bytes were allocated", taken)
			}
		})
	}
	_, err := decode(t, codec, claimingPNG(1<<24+1, 1))
	expectReason(t, err, imagecodec.TooManyPixels, "a side of 16777217x1 is longer than 16777216 pixels")
	c := config()
	c.MaxPixels = 59999
	_, err = decode(t, newCodec(t, c), goldens.Read(t, "pictures/jpeg-420.jpg"))
	expectReason(t, err, imagecodec.TooManyPixels, "300x200 is more than 59999 pixels")
	c.Size = settings.Size{}
	_, err = decode(t, newCodec(t, c), goldens.Read(t, "pictures/jpeg-420.jpg"))
	expectReason(t, err, imagecodec.TooManyPixels, "300x200 is more than 59999 pixels")
	c.MaxPixels = 10799
	_, err = decode(t, newCodec(t, c), goldens.Read(t, "pictures/png-rgb.png"))
	expectReason(t, err, imagecodec.TooManyPixels, "120x90 is more than 10799 pixels")
}

// claim returns a JPEG with another size in its frame header.
func claim(jpeg []byte, width, height uint16) []byte {
	jpeg = slices.Clone(jpeg)
	for _, marker := range []byte{0xc0, 0xc2} {
		if at := bytes.Index(jpeg, []byte{0xff, marker}); at > 0 {
			binary.BigEndian.PutUint16(jpeg[at+5:], height)
			binary.BigEndian.PutUint16(jpeg[at+7:], width)
		}
	}
	return jpeg
}

func TestExtremeSizes(t *testing.T) {
	codec := newCodec(t, config())
	for _, size := range [][2]int{{1, 1}, {65500, 1}, {1, 65500}, {2, 3}} {
		img := image.NewNRGBA(image.Rect(0, 0, size[0], size[1]))
		for i := range img.Pix {
			img.Pix[i] = 200
		}
		pixels := bytes.Repeat([]byte{200}, size[0]*size[1]*3)
		jpeg := make([]byte, torch.JPEGBound(size[0], size[1], 3))
		n, err := torch.EncodeJPEG(pixels, size[0], size[1], 3, 100, jpeg)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"PNG": encodePNG(t, img), "JPEG": jpeg[:n]} {
			got, err := decode(t, codec, data)
			if err != nil || got.Pixels[0] < 199 || got.Pixels[len(got.Pixels)-1] > 201 {
				t.Errorf("%s of %v: %v", name, size, err)
			}
		}
	}
}

// A GIF's first frame can cover only a part of the image.
func TestGIFFrameInsideItsArea(t *testing.T) {
	palette := color.Palette{color.RGBA{10, 20, 30, 255}, color.RGBA{200, 100, 50, 255}}
	frame := image.NewPaletted(image.Rect(1, 1, 3, 2), palette)
	frame.Pix = []byte{1, 1}
	var file bytes.Buffer
	err := gif.EncodeAll(&file, &gif.GIF{
		Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{ColorModel: palette, Width: 4, Height: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := config()
	c.Size = settings.Size{}
	got, err := decode(t, newCodec(t, c), file.Bytes())
	if err != nil || got.Width != 4 || got.Height != 3 {
		t.Fatalf("%dx%d, %v", got.Width, got.Height, err)
	}
	if corner, inside := got.Pixels[:3], got.Pixels[3*(4+1):][:3]; !slices.Equal(corner, []byte{10, 20, 30}) || !slices.Equal(inside, []byte{200, 100, 50}) {
		t.Errorf("corner %v, inside %v", corner, inside)
	}
}

func TestEncode(t *testing.T) {
	codec := newCodec(t, config())
	colour := imagecodec.Image{Width: 40, Height: 30, Channels: 3, Pixels: goldens.Noise(7, 40*30*3)}
	grey := imagecodec.Image{Width: 40, Height: 30, Channels: 1, Pixels: goldens.Noise(8, 40*30)}
	for _, p := range []imagecodec.Image{colour, grey} {
		for format, read := range map[settings.Format]func([]byte) (image.Image, error){
			settings.PNG:  func(data []byte) (image.Image, error) { return png.Decode(bytes.NewReader(data)) },
			settings.WebP: func(data []byte) (image.Image, error) { return webp.Decode(bytes.NewReader(data)) },
		} {
			file, err := codec.Encode(t.Context(), p, imagecodec.Encoding{Format: format})
			if err != nil {
				t.Fatal(err)
			}
			img, err := read(file)
			if err != nil {
				t.Fatal(err)
			}
			for y := range p.Height {
				for x := range p.Width {
					at := (y*p.Width + x) * p.Channels
					want := color.NRGBA{p.Pixels[at], p.Pixels[at+p.Channels/2], p.Pixels[at+p.Channels-1], 255}
					if got := color.NRGBAModel.Convert(img.At(x, y)); got != want {
						t.Fatalf("%s, pixel %d,%d: %v instead of %v", format.ContentType(), x, y, got, want)
					}
				}
			}
		}
		file, err := codec.Encode(t.Context(), p, imagecodec.Encoding{Format: settings.JPEG})
		if err != nil {
			t.Fatal(err)
		}
		header, err := torch.ReadJPEGHeader(file)
		if err != nil || header.Width != 40 || header.Height != 30 || header.Channels != p.Channels {
			t.Errorf("the JPEG has the header %+v, %v", header, err)
		}
	}
	_, err := codec.Encode(t.Context(), imagecodec.Image{Width: 70000, Height: 1, Channels: 3, Pixels: make([]byte, 210000)}, imagecodec.Encoding{Format: settings.JPEG})
	expectReason(t, err, imagecodec.TooLong, "the result of 70000x1 pixels is too long for JPEG, whose sides are at most 65500 pixels: ask for format=png")
}

// smooth returns an image of slow waves, which lossy formats change little.
func smooth(width, height, channels int) imagecodec.Image {
	p := imagecodec.Image{Width: width, Height: height, Channels: channels, Pixels: make([]byte, width*height*channels)}
	for i := range p.Pixels {
		x, y, c := float64(i/channels%width), float64(i/channels/width), float64(i%channels)
		p.Pixels[i] = byte(128 + 90*math.Sin(x/37+c)*math.Cos(y/29))
	}
	return p
}

// An AVIF has the image's pixels, within what its chroma of half the size and its quality lose; its alpha and grayscale of the
// best quality lose nothing.
func TestEncodeAVIF(t *testing.T) {
	codec := keeping(t, func(c *imagecodec.Config) { c.Grayscale, c.Alpha.Keep = settings.ToRGB, true })
	encode := func(p imagecodec.Image, quality int) []byte {
		t.Helper()
		file, err := codec.Encode(t.Context(), p, imagecodec.Encoding{Format: settings.AVIF, Quality: quality})
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, size := range [][2]int{{1, 1}, {1, 7}, {7, 1}, {2, 2}, {65, 63}, {641, 479}} {
		for channels, tolerance := range map[int]int{1: 0, 3: 4, 4: 4} {
			p := smooth(size[0], size[1], channels)
			got, err := decode(t, codec, encode(p, 100))
			if err != nil || got.Width != p.Width || got.Height != p.Height {
				t.Fatalf("%v, %d channels: %dx%d, %v", size, channels, got.Width, got.Height, err)
			}
			if got, err = codec.WithAlpha(t.Context(), got, got, settings.PNG); err != nil || got.Channels != max(3, channels) {
				t.Fatalf("%v: %d channels in place of %d, %v", size, got.Channels, channels, err)
			}
			for i := range p.Width * p.Height {
				for c := range got.Channels {
					allowed := tolerance
					if c == 3 {
						allowed = 0
					}
					want := p.Pixels[i*channels+min(c, channels-1)]
					if d := int(got.Pixels[i*got.Channels+c]) - int(want); max(d, -d) > allowed {
						t.Fatalf("%v, %d channels: pixel %d, channel %d is %d, want %d", size, channels, i, c, got.Pixels[i*got.Channels+c], want)
					}
				}
			}
		}
	}
	p := imagecodec.Image{Width: 100, Height: 100, Channels: 3, Pixels: goldens.Noise(3, 30000)}
	if poor, good, usual := len(encode(p, 1)), len(encode(p, 90)), len(encode(p, 0)); poor >= usual || usual >= good {
		t.Errorf("%d bytes with a quality of 1, %d with 90, %d with that of the codec", poor, good, usual)
	}
}

// An endingContext ends when it has been asked so often.
type endingContext struct {
	context.Context
	left atomic.Int64
}

func (c *endingContext) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// The encoder of AVIF looks at its context in all of its passes, and ends with it.
func TestAnEncodeEndsWithItsContext(t *testing.T) {
	codec := newCodec(t, config())
	p := imagecodec.Image{Width: 256, Height: 256, Channels: 3, Pixels: goldens.Noise(3, 3<<16)}
	encode := func(ctx context.Context) error {
		_, err := codec.Encode(ctx, p, imagecodec.Encoding{Format: settings.AVIF})
		return err
	}
	all := &endingContext{Context: t.Context()}
	all.left.Store(math.MaxInt64)
	if err := encode(all); err != nil {
		t.Fatal(err)
	}
	const blocks = 16 // of 64x64 pixels, which are encoded and then written
	asked := math.MaxInt64 - all.left.Load()
	if asked < 2*blocks {
		t.Errorf("the context is asked %d times", asked)
	}
	for after := range asked {
		ending := &endingContext{Context: t.Context()}
		ending.left.Store(after)
		if err := encode(ending); !errors.Is(err, context.Canceled) {
			t.Errorf("ended after %d of %d questions: %v", after, asked, err)
		}
	}
}

// busyCodec returns a codec whose only slot is taken until release is called.
func busyCodec(t *testing.T) (codec *imagecodec.Codec, release func()) {
	t.Helper()
	c := config()
	c.Slots = cpu.NewSlots(1)
	release, err := c.Slots.NewQueue(1).Acquire(t.Context(), cpu.Decoding)
	if err != nil {
		t.Fatal(err)
	}
	return newCodec(t, c), release
}

func TestCodecWaitsForASlotUntilTheContextEnds(t *testing.T) {
	left := errors.New("the client left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(left)
	codec, release := busyCodec(t)
	if _, err := decodeUntil(ctx, codec, goldens.Read(t, "pictures/jpeg-420.jpg")); !errors.Is(err, left) {
		t.Errorf("decode: %v", err)
	}
	if _, err := codec.Encode(ctx, imagecodec.Image{Width: 1, Height: 1, Channels: 3, Pixels: make([]byte, 3)}, imagecodec.Encoding{Format: settings.JPEG}); !errors.Is(err, left) {
		t.Errorf("encode: %v", err)
	}
	release()
	if _, err := decode(t, codec, goldens.Read(t, "pictures/jpeg-420.jpg")); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// Encode asks for a slot with the priority of encoding, Decode with that of decoding: with the only slot taken, the image
// that is to be encoded goes first although it came last.
func TestEncodingHasPriorityOverDecoding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codec, release := busyCodec(t)
		order := make(chan string, 2)
		go func() {
			if _, err := decode(t, codec, goldens.Read(t, "pictures/jpeg-small.jpg")); err != nil {
				t.Error(err)
			}
			order <- "decode"
		}()
		synctest.Wait()
		go func() {
			if _, err := codec.Encode(t.Context(), imagecodec.Image{Width: 1, Height: 1, Channels: 3, Pixels: make([]byte, 3)}, imagecodec.Encoding{Format: settings.JPEG}); err != nil {
				t.Error(err)
			}
			order <- "encode"
		}()
		synctest.Wait()
		release()
		if first := <-order; first != "encode" {
			t.Errorf("%s went first", first)
		}
		<-order
	})
}

// Decode and Encode run on the calling thread; they start no thread pool.
func TestCodecsStartNoThreads(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("threads are counted in /proc")
	}
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	codec := newCodec(t, config())
	jpeg := goldens.Read(t, "pictures/jpeg-large.jpg")
	work := func() {
		p, err := decode(t, codec, jpeg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := codec.Encode(t.Context(), p, imagecodec.Encoding{Format: settings.JPEG}); err != nil {
			t.Fatal(err)
		}
	}
	work()
	before := threads()
	for range 50 {
		work()
	}
	// Go's runtime may start a thread meanwhile; an OpenMP pool would start one for each core.
	if after := threads(); after > before+1 {
		t.Errorf("%d threads before, %d after", before, after)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*imagecodec.Config){
		"slots":   func(c *imagecodec.Config) { c.Slots = nil },
		"pixels":  func(c *imagecodec.Config) { c.MaxPixels = 0 },
		"width":   func(c *imagecodec.Config) { c.Size.Width = 0 },
		"height":  func(c *imagecodec.Config) { c.Size.Height = 70000 },
		"quality": func(c *imagecodec.Config) { c.Quality = 101 },
		"filter":  func(c *imagecodec.Config) { c.ResizeFilter = 6 },

		"multiple of a fixed size": func(c *imagecodec.Config) { c.MultipleOf = 4 },
		"longest of a fixed size":  func(c *imagecodec.Config) { c.MaxSide = 300 },
		"multiple below 0":         func(c *imagecodec.Config) { c.Size, c.MultipleOf = settings.Size{}, -1 },
		"multiple too large":       func(c *imagecodec.Config) { c.Size, c.MultipleOf = settings.Size{}, 65501 },
		"longest below 0":          func(c *imagecodec.Config) { c.Size, c.MaxSide = settings.Size{}, -1 },
		"longest too large":        func(c *imagecodec.Config) { c.Size, c.MaxSide = settings.Size{}, 65501 },
		"fit without a size":       func(c *imagecodec.Config) { c.Fit = settings.AutoFit },
		"tile of a fixed size":     func(c *imagecodec.Config) { c.Tile, c.TileStride = 64, 32 },
		"tile without a stride":    func(c *imagecodec.Config) { c.Size, c.Tile = settings.Size{}, 64 },
		"longest below a multiple": func(c *imagecodec.Config) { c.Size, c.MaxSide, c.MultipleOf = settings.Size{}, 31, 32 },
	} {
		c := config()
		change(&c)
		if _, err := imagecodec.NewCodec(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	codec := newCodec(b, config())
	for _, p := range []string{"jpeg-228.jpg", "jpeg-large.jpg", "png-rgb.png", "webp-lossy.webp"} {
		data := goldens.Read(b, "pictures/"+p)
		b.Run(p, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p, err := decode(b, codec, data)
				if err != nil {
					b.Fatal(err)
				}
				codec.Recycle(p.Pixels)
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	codec := newCodec(b, config())
	p, err := decode(b, codec, goldens.Read(b, "pictures/jpeg-large.jpg"))
	if err != nil {
		b.Fatal(err)
	}
	for format, name := range map[settings.Format]string{settings.JPEG: "jpeg", settings.PNG: "png", settings.WebP: "webp", settings.AVIF: "avif"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				file, err := codec.Encode(b.Context(), p, imagecodec.Encoding{Format: format})
				if err != nil {
					b.Fatal(err)
				}
				codec.Recycle(file)
			}
		})
	}
}

func ExampleCodec() {
	codec, err := imagecodec.NewCodec(imagecodec.Config{Slots: cpu.NewSlots(1), Weight: 1, MaxPixels: 1e6, Size: settings.Size{Width: 100, Height: 50}, Quality: 75})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = codec.Prepare([]byte("not a picture"))
	fmt.Println(err)
	// Output: unknown image format: send JPEG, PNG, WebP, AVIF, JPEG 2000, GIF, BMP or TIFF
}

// The image that the model gets is the same whether or not the image at its own size is needed too, and the latter is that
// of a codec that keeps sizes.
func TestDecodeBoth(t *testing.T) {
	keeping := config()
	keeping.Size = settings.Size{}
	joining := config()
	joining.Output = settings.Alpha
	for _, c := range []*imagecodec.Config{&keeping, &joining} {
		c.Grayscale = settings.ToRGB
	}
	plain := config()
	plain.Grayscale = settings.ToRGB
	for _, name := range []string{"jpeg-420.jpg", "jpeg-large.jpg", "jpeg-cmyk.jpg", "exif-6.jpg", "exif-3.jpg", "png-rgba.png", "png-interlaced.png", "png-gray.png", "gif.gif", "webp-lossy.webp", "bmp.bmp", "tiff-lzw.tiff"} {
		data := goldens.Read(t, "pictures/"+name)
		decodeWith := func(c imagecodec.Config) imagecodec.Image {
			codec := newCodec(t, c)
			in, err := codec.Prepare(data)
			if err != nil {
				t.Fatal(name, err)
			}
			img, err := codec.Decode(t.Context(), in)
			if err != nil {
				t.Fatal(name, err)
			}
			if got := in.Held(); got != int64(len(img.Pixels)) {
				t.Errorf("%s: %d bytes are held, want %d", name, got, len(img.Pixels))
			}
			return img
		}
		wantImage, wantSent := decodeWith(plain), decodeWith(keeping)
		codec := newCodec(t, joining)
		in, err := codec.Prepare(data)
		if err != nil {
			t.Fatal(name, err)
		}
		img, sent, err := codec.DecodeBoth(t.Context(), in)
		if err != nil {
			t.Fatal(name, err)
		}
		if !slices.Equal(img.Pixels, wantImage.Pixels) || !slices.Equal(sent.Pixels, wantSent.Pixels) || sent.Width != wantSent.Width {
			t.Errorf("%s: other pixels than alone", name)
		}
		// Of the image as sent: itself, the mask at its size, and the result.
		if want := int64(len(img.Pixels) + sent.Width*sent.Height*10); in.Held() != want || in.Memory < want {
			t.Errorf("%s: %d bytes are held of %d, want %d", name, in.Held(), in.Memory, want)
		}
	}
}

// A join that waits or works ends with its request.
func TestJoinEnds(t *testing.T) {
	c := config()
	for _, kind := range []settings.OutputKind{settings.Alpha, settings.Chroma, settings.Luma} {
		c.Output = kind
		codec := newCodec(t, c)
		parts := imagecodec.Parts{
			Output: imagecodec.Image{Width: 2, Height: 2, Channels: 4, Pixels: make([]byte, 16)},
			Input:  imagecodec.Image{Width: 2, Height: 2, Channels: 3, Pixels: make([]byte, 12)},
			Sent:   imagecodec.Image{Width: 3, Height: 3, Channels: 3, Pixels: make([]byte, 27)},
		}
		if kind != settings.Chroma {
			parts.Output.Channels, parts.Output.Pixels = 1, make([]byte, 4)
		}
		left := errors.New("the client has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		if _, err := codec.Join(ctx, parts); err != nil || !codec.Joins() {
			t.Errorf("%s: %v", kind, err)
		}
		cancel(left)
		if _, err := codec.Join(ctx, parts); !errors.Is(err, left) {
			t.Errorf("%s: %v after the end", kind, err)
		}
	}
}
