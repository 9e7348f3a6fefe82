package imagecodec_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/HugoSmits86/nativewebp"
	"github.com/rs/zerolog"
	"golang.org/x/image/tiff"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// The patches of images with ICC profiles come out within a level of what Little CMS computes in floating point: displays, gray,
// tables, and the inks of a press in a JPEG and in TIFFs, of 8 and of 16 bits. Those of PQ and HLG, in PNGs of 16 bits and AVIFs
// of 10, come out as the formulas of BT.2100 say.
func TestColoursEqualLittleCMS(t *testing.T) {
	codec := keeping(t, nil)
	ignoring := keeping(t, func(c *imagecodec.Config) { c.Color = settings.IgnoreColor })
	var expected []struct {
		Name, File string
		SRGB       [][3]float64
	}
	if err := json.Unmarshal(goldens.Read(t, "colour/expected.json"), &expected); err != nil || len(expected) < 8 {
		t.Fatal(len(expected), err)
	}
	for _, e := range expected {
		file := goldens.Read(t, "colour/"+e.File)
		got, err := decode(t, codec, file)
		if err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		block, wrong := got.Width/16, 0
		for i, want := range e.SRGB {
			at := 3 * ((i/16*block+block/2)*got.Width + i%16*block + block/2)
			for c, v := range want {
				if d := math.Abs(float64(got.Pixels[at+c]) - v); d > 1 {
					if wrong++; wrong < 5 {
						t.Errorf("%s, patch %d: %v, want %v", e.File, i, got.Pixels[at:at+3], want)
					}
					break
				}
			}
		}
		stored, err := decode(t, ignoring, file)
		if err != nil || bytes.Equal(stored.Pixels, got.Pixels) != (e.Name == "srgb") {
			t.Errorf("%s: as stored, the pixels are equal: %v, %v", e.Name, bytes.Equal(stored.Pixels, got.Pixels), err)
		}
	}
}

// iccSegments returns an ICC profile in segments of a JPEG, of at most so many bytes, in reverse order.
func iccSegments(profile []byte, size int) [][]byte {
	parts := slices.Collect(slices.Chunk(profile, size))
	var segments [][]byte
	for i := len(parts) - 1; i >= 0; i-- {
		segments = append(segments, segment(0xe2, "ICC_PROFILE\x00", string([]byte{byte(i + 1), byte(len(parts))}), string(parts[i])))
	}
	return segments
}

// riff returns a chunk of a WebP.
func riff(kind string, data []byte) []byte {
	out := binary.LittleEndian.AppendUint32([]byte(kind), uint32(len(data)))
	return append(append(out, data...), make([]byte, len(data)%2)...)
}

// webpWith returns a WebP with chunks before and after its frame, and with flags for them.
func webpWith(t testing.TB, img image.Image, flags byte, before, after []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := nativewebp.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	size := img.Bounds().Size()
	const container = 12 // bytes before the frame
	canvas := []byte{flags, 0, 0, 0, byte(size.X - 1), byte((size.X - 1) >> 8), 0, byte(size.Y - 1), byte((size.Y - 1) >> 8), 0}
	return riff("RIFF", slices.Concat([]byte("WEBP"), riff("VP8X", canvas), before, b.Bytes()[container:], after))
}

// tiffWith returns a TIFF with a further field.
func tiffWith(t testing.TB, img image.Image, tag uint16, value []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tiff.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	file := b.Bytes()
	at := int(binary.LittleEndian.Uint32(file[4:]))
	entries := int(binary.LittleEndian.Uint16(file[at:]))
	directory := binary.LittleEndian.AppendUint16(nil, uint16(entries+1))
	directory = append(directory, file[at+2:at+2+12*entries]...) // its tags are below this one
	directory = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(directory, tag), 7)
	directory = binary.LittleEndian.AppendUint32(directory, uint32(len(value)))
	directory = binary.LittleEndian.AppendUint32(directory, uint32(len(file)))
	directory = append(directory, 0, 0, 0, 0)
	file = append(file, value...)
	binary.LittleEndian.PutUint32(file[4:], uint32(len(file)))
	return append(file, directory...)
}

// gifWith returns a GIF with an ICC profile.
func gifWith(t testing.TB, profile []byte) []byte {
	t.Helper()
	img := image.NewPaletted(image.Rect(0, 0, 3, 1), color.Palette{color.NRGBA{255, 60, 60, 255}, color.NRGBA{60, 255, 60, 255}, color.NRGBA{60, 60, 255, 255}, color.NRGBA{A: 255}})
	copy(img.Pix, []byte{0, 1, 2})
	var b bytes.Buffer
	if err := gif.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	const screen = 13
	end := screen
	if flags := b.Bytes()[10]; flags&0x80 != 0 {
		end += 3 << (flags&7 + 1)
	}
	blocks := []byte("\x21\xff\x0bICCRGBG1012")
	for part := range slices.Chunk(profile, 255) {
		blocks = append(append(blocks, byte(len(part))), part...)
	}
	return slices.Concat([]byte("GIF89a"), b.Bytes()[6:end], blocks, []byte{0}, b.Bytes()[end:])
}

// Each place of a colour space is found, PNG's in their order, and what is broken leaves the image as it is stored, with a line
// in the log.
func TestPlacesOfColours(t *testing.T) {
	p3 := goldens.Read(t, "colour/display-p3.icc")
	press, inks := goldens.Read(t, "colour/cmyk.icc"), goldens.Read(t, "colour/cmyk-8.tif")
	iCCP := pngChunk("iCCP", append([]byte("P3\x00\x00"), deflated(p3)...))
	srgb := pngChunk("iCCP", append([]byte("sRGB\x00\x00"), deflated(goldens.Read(t, "colour/srgb.icc"))...))
	gamma := func(v uint32) []byte { return pngChunk("gAMA", binary.BigEndian.AppendUint32(nil, v)) }
	chromaticities := func(v ...uint32) []byte {
		var data []byte
		for _, each := range v {
			data = binary.BigEndian.AppendUint32(data, each)
		}
		return pngChunk("cHRM", data)
	}
	wideGamut := chromaticities(31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
	usual := chromaticities(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
	cicp := func(v ...byte) []byte { return pngChunk("cICP", v) }
	png3 := func(chunks []byte) []byte { return pngWith(t, chunks, nil) }
	for name, test := range map[string]struct {
		file    []byte
		changes bool
		logs    bool
	}{
		"PNG":                           {png3(iCCP), true, false},
		"PNG, sRGB's profile":           {png3(srgb), false, false},
		"PNG, no profile":               {png3(nil), false, false},
		"PNG, profile cut":              {png3(pngChunk("iCCP", append([]byte("P3\x00\x00"), deflated(p3[:200])...))), false, true},
		"PNG, stream cut":               {png3(pngChunk("iCCP", append([]byte("P3\x00\x00"), deflated(p3)[:100]...))), false, true},
		"PNG, for other pixels":         {png3(pngChunk("iCCP", append([]byte("press\x00\x00"), deflated(press)...))), false, true},
		"PNG, cICP P3":                  {png3(cicp(12, 13, 0, 1)), true, false},
		"PNG, cICP sRGB wins over P3":   {png3(slices.Concat(cicp(1, 13, 0, 1), iCCP)), false, false},
		"PNG, cICP PQ":                  {png3(cicp(9, 16, 0, 1)), true, false},
		"PNG, cICP HLG":                 {png3(cicp(9, 18, 0, 1)), true, false},
		"PNG, a profile of a link":      {png3(pngChunk("iCCP", append([]byte("link\x00\x00"), deflated(slices.Concat(p3[:12], []byte("link"), p3[16:]))...))), false, true},
		"PNG, cICP of YCbCr":            {png3(cicp(12, 13, 1, 1)), false, false},
		"PNG, cICP unknown":             {png3(cicp(99, 13, 0, 1)), false, true},
		"PNG, gAMA":                     {png3(gamma(100000)), true, false},
		"PNG, gAMA of sRGB":             {png3(slices.Concat(gamma(45455), usual)), false, false},
		"PNG, cHRM with sRGB's gAMA":    {png3(slices.Concat(gamma(45455), wideGamut)), true, false},
		"PNG, cHRM alone":               {png3(wideGamut), false, false},
		"PNG, sRGB wins over gAMA":      {png3(slices.Concat(gamma(100000), pngChunk("sRGB", []byte{0}))), false, false},
		"PNG, iCCP wins over sRGB":      {png3(slices.Concat(pngChunk("sRGB", []byte{0}), iCCP)), true, false},
		"PNG, sRGB's iCCP wins over":    {png3(slices.Concat(gamma(100000), srgb)), false, false},
		"PNG, gAMA of 0":                {png3(gamma(0)), false, false},
		"PNG, cHRM of zeros":            {png3(slices.Concat(gamma(100000), chromaticities(0, 0, 0, 0, 0, 0, 0, 0))), false, true},
		"JPEG, one segment":             {jpegWith(t, iccSegments(p3, 60000)...), true, false},
		"JPEG, segments out of order":   {jpegWith(t, iccSegments(p3, 100)...), true, false},
		"JPEG, a segment is missing":    {jpegWith(t, iccSegments(p3, 100)[1:]...), false, true},
		"JPEG, the only one is missing": {jpegWith(t, segment(0xe2, "ICC_PROFILE\x00\x02\x01", string(p3))), false, true},
		"JPEG, another APP2":            {jpegWith(t, segment(0xe2, "MPF\x00")), false, false},
		"WebP":                          {webpWith(t, wide(), 1<<5, riff("ICCP", p3), nil), true, false},
		"WebP, no flag":                 {webpWith(t, wide(), 0, riff("ICCP", p3), nil), false, false},
		"TIFF":                          {tiffWith(t, wide(), 0x8773, p3), true, false},
		"TIFF, broken":                  {tiffWith(t, wide(), 0x8773, p3[:300]), false, true},
		"TIFF of inks":                  {inks, true, false},
		"TIFF of inks, for RGB":         {bytes.Replace(inks, []byte("CMYK"), []byte("RGB "), 1), false, true},
		"TIFF of inks, for other inks":  {bytes.Replace(inks, []byte("CMYK"), []byte("6CLR"), 1), false, true},
		"AVIF, HLG":                     {goldens.Read(t, "colour/hlg.avif"), true, false},
		"AVIF, reserved numbers":        {bytes.Replace(goldens.Read(t, "colour/hlg.avif"), []byte("nclx\x00"), []byte("nclx\x01"), 1), false, true},
		"GIF":                           {gifWith(t, p3), true, false},
		"GIF, cut":                      {gifWith(t, p3[:300]), false, true},
	} {
		var log bytes.Buffer
		codec := keeping(t, func(c *imagecodec.Config) { c.Log = zerolog.New(&log) })
		ignoring := keeping(t, func(c *imagecodec.Config) { c.Color = settings.IgnoreColor })
		got, err := decode(t, codec, test.file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		stored, err := decode(t, ignoring, test.file)
		if err != nil || bytes.Equal(got.Pixels, stored.Pixels) == test.changes {
			t.Errorf("%s: %v from %v, want a change: %v, %v", name, got.Pixels, stored.Pixels, test.changes, err)
		}
		if logged := strings.Contains(log.String(), "colour space ignored"); logged != test.logs {
			t.Errorf("%s: log %q, want a line: %v", name, log.String(), test.logs)
		}
	}
}

// A broken profile in every request doesn't fill the log.
func TestLogOfColoursIsBounded(t *testing.T) {
	var log bytes.Buffer
	codec := keeping(t, func(c *imagecodec.Config) { c.Log = zerolog.New(&log) })
	file := pngWith(t, pngChunk("cICP", []byte{99, 16, 0, 1}), nil)
	for range 100 {
		if _, err := decode(t, codec, file); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Count(log.String(), "\n"); lines < 1 || lines > 10 {
		t.Errorf("%d lines for 100 images, want 1 to 10", lines)
	}
}

// A profile that is known costs no more than its hash, and an image without one nothing.
func TestColoursAllocateLittle(t *testing.T) {
	if instrumented {
		t.Skip("sanitizers allocate, and make pools drop what they hold")
	}
	plain := keeping(t, func(c *imagecodec.Config) { c.Color = settings.IgnoreColor })
	codec := keeping(t, nil)
	bare, tagged := jpegWith(t), jpegWith(t, iccSegments(goldens.Read(t, "colour/srgb.icc"), 60000)...)
	allocs := func(codec *imagecodec.Codec, file []byte) float64 {
		return testing.AllocsPerRun(20, func() {
			p, err := decode(t, codec, file)
			if err != nil {
				t.Fatal(err)
			}
			codec.Recycle(p.Pixels)
		})
	}
	if without, with := allocs(plain, bare), allocs(codec, bare); with > without {
		t.Errorf("%v allocations without a profile, %v if profiles are ignored", with, without)
	}
	if without, with := allocs(plain, bare), allocs(codec, tagged); with > without {
		t.Errorf("%v allocations with a known profile, %v without one", with, without)
	}
}

// FuzzDetails looks for files whose metadata break a decode. The pixels are small, so that the fuzzer changes what is around them.
func FuzzDetails(f *testing.F) {
	p3 := goldens.Read(f, "colour/display-p3.icc")
	xmp := []byte(`<x tiff:Orientation="6" exif:GPSLatitude="1"/>`)
	f.Add(pngWith(f, slices.Concat(pngChunk("iCCP", append([]byte("P3\x00\x00"), deflated(p3)...)), pngChunk("eXIf", turned(6)),
		pngChunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), deflated([]byte(magick(turned(3))))...))), nil))
	f.Add(pngWith(f, slices.Concat(pngChunk("cICP", []byte{12, 13, 0, 1}), pngChunk("gAMA", []byte{0, 1, 0, 0}), pngChunk("iTXt", append([]byte("XML:com.adobe.xmp\x00\x00\x00\x00\x00"), xmp...))), nil))
	f.Add(jpegWith(f, append(iccSegments(p3, 200), segment(0xe1, exifHead, string(turned(5))), segment(0xe1, xmpHead, string(xmp)))...))
	f.Add(webpWith(f, wide(), 0x2c, riff("ICCP", p3), slices.Concat(riff("EXIF", turned(6)), riff("XMP ", xmp))))
	f.Add(tiffWith(f, wide(), 0x8773, p3))
	f.Add(gifWith(f, p3))
	codec := keeping(f, func(c *imagecodec.Config) { c.MaxPixels = 1 << 16 })
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decode(t, codec, repaired(data))
		if err == nil && len(p.Pixels) != 3*p.Width*p.Height {
			t.Errorf("%dx%d, %d bytes", p.Width, p.Height, len(p.Pixels))
		}
		codec.Recycle(p.Pixels)
	})
}

// hugeProfile returns an ICC profile of nearly 4 MiB, whose table has a byte for each number.
func hugeProfile(t testing.TB) []byte {
	t.Helper()
	const side, channels = 110, 3
	profile := goldens.Read(t, "colour/rgb-lut8.icc")
	entry := bytes.Index(profile, []byte("A2B0"))
	at := int(binary.BigEndian.Uint32(profile[entry+4:]))
	const head, curves = 48, 256 * channels
	table := bytes.Clone(profile[at : at+head+curves])
	table[10] = side
	table = append(append(table, goldens.Noise(1, side*side*side*channels)...), table[head:head+curves]...)
	binary.BigEndian.PutUint32(profile[entry+4:], uint32(len(profile)))
	binary.BigEndian.PutUint32(profile[entry+8:], uint32(len(table)))
	profile = append(profile, table...)
	binary.BigEndian.PutUint32(profile, uint32(len(profile)))
	return profile
}

// Converting colours, keeping alpha and metadata take no more memory than the Input says.
func TestMemoryOfColoursIsAnUpperBound(t *testing.T) {
	if instrumented {
		t.Skip("a sanitizer takes memory of its own")
	}
	if os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600) != nil {
		t.Skip("the peak of the resident set can't be reset here")
	}
	compileDecoders(t)
	huge := pngWith(t, pngChunk("iCCP", append([]byte("huge\x00\x00"), deflated(hugeProfile(t))...)), nil)
	for name, file := range map[string][]byte{
		"inks": goldens.Read(t, "colour/cmyk.jpg"), "tables": goldens.Read(t, "colour/rgb-lut16.png"), "a huge profile": huge,
		"inks of a TIFF": goldens.Read(t, "colour/cmyk-16.tif"), "PQ": goldens.Read(t, "colour/pq.avif"), "16 bits": goldens.Read(t, "colour/rgb-mab-16.png"),
		"alpha": blackPNG(3000, 2000, 8, 6, 0), "interlaced alpha": blackPNG(3000, 2000, 8, 4, 1),
	} {
		codec := keeping(t, func(c *imagecodec.Config) { c.Alpha.Keep, c.Metadata = true, settings.MostOfMetadata })
		in, err := codec.Prepare(file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before := quietPeak(t)
		p, err := codec.Decode(t.Context(), in)
		metadata := codec.Metadata(in)
		grown := status(t, "VmHWM") - before
		runtime.KeepAlive(p)
		runtime.KeepAlive(metadata)
		const slack = 12 << 20
		if err != nil || grown > in.Memory+slack {
			t.Errorf("%s: %d KiB instead of %d, %v", name, grown>>10, in.Memory>>10, err)
		}
		t.Logf("%s: %d KiB of %d", name, grown>>10, in.Memory>>10)
	}
}

// A decode whose colours take long ends with its context.
func TestColoursEndWithTheirContext(t *testing.T) {
	left := errors.New("the client left")
	for _, name := range []string{"cmyk.jpg", "rgb-lut16.png", "cmyk-16.tif", "rgb-lut16-16.png", "pq.avif"} {
		file := goldens.Read(t, "colour/"+name)
		codec := keeping(t, nil)
		in, err := codec.Prepare(file)
		if err != nil {
			t.Fatal(err)
		}
		parent, cancel := context.WithCancelCause(t.Context())
		watched := &watchedContext{Context: parent, cancel: func() { cancel(left) }}
		if _, err := codec.Decode(watched, in); !errors.Is(err, left) {
			t.Errorf("%v, want the context's cause", err)
		}
		if _, err := decode(t, codec, file); err != nil { // what the first left behind isn't used
			t.Error(err)
		}
	}
}

// The conversion of large images counts as work, by the kind of their profiles: 24 megapixels are converted whatever it is, and
// more only by a matrix.
func TestWorkOfColours(t *testing.T) {
	codec := keeping(t, nil)
	matrix, tables, press := goldens.Read(t, "colour/display-p3.icc"), goldens.Read(t, "colour/rgb-lut16.icc"), goldens.Read(t, "colour/cmyk.icc")
	sized := func(file []byte, w, h uint16, segments ...[]byte) []byte {
		file = claim(file, w, h)
		file = slices.Concat(file[:2], slices.Concat(segments...), file[2:])
		return append(file, make([]byte, 4<<20-1-len(file))...)
	}
	inks := goldens.Read(t, "pictures/jpeg-cmyk.jpg")
	for _, test := range []struct {
		name    string
		file    []byte
		refused bool
	}{
		{"24 MP by a matrix", sized(jpegWith(t), 6000, 4000, iccSegments(matrix, 60000)...), false},
		{"24 MP by tables", sized(jpegWith(t), 6000, 4000, iccSegments(tables, 60000)...), false},
		{"24 MP of inks", sized(inks, 6000, 4000, iccSegments(press, 60000)...), false},
		{"31 MP by a matrix", sized(jpegWith(t), 6800, 4500, iccSegments(matrix, 60000)...), false},
		{"40 MP without a profile", sized(jpegWith(t), 8000, 5000), false},
		{"40 MP by tables", sized(jpegWith(t), 8000, 5000, iccSegments(tables, 60000)...), true},
		{"40 MP by what is hidden", sized(jpegWith(t), 8000, 5000, iccSegments(matrix, 100)...), true},
		{"40 MP of inks", sized(inks, 8000, 5000, iccSegments(press, 60000)...), true},
	} {
		_, err := codec.Prepare(test.file)
		if test.refused {
			expectReason(t, err, imagecodec.TooMuchWork, "too much work: ")
		} else if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
