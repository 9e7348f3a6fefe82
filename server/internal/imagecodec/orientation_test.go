package imagecodec_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// keeping returns a codec for which images keep their sizes.
func keeping(t testing.TB, change func(c *imagecodec.Config)) *imagecodec.Codec {
	t.Helper()
	c := config()
	c.Size, c.Grayscale = settings.Size{}, settings.ToRGB
	if change != nil {
		change(&c)
	}
	return newCodec(t, c)
}

func readOwn(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// corners returns the colours one pixel inside an image's corners: of the upper row, then of the lower one.
func corners(p imagecodec.Image) string {
	var texts []string
	for _, at := range [][2]int{{1, 1}, {p.Width - 2, 1}, {1, p.Height - 2}, {p.Width - 2, p.Height - 2}} {
		i := 3 * (at[1]*p.Width + at[0])
		texts = append(texts, hex.EncodeToString(p.Pixels[i:i+3]))
	}
	return strings.Join(texts, " ")
}

// Files of each format that state an orientation come out as from Pillow's exif_transpose.
func TestOrientationOfEachFormat(t *testing.T) {
	sideways := "1e28fa fa1414 f1b25c 14f01e"
	codec := keeping(t, nil)
	for _, test := range []struct{ file, size, corners string }{
		{"webp-lossless-exif.webp", "24x40", sideways},
		{"webp-lossy-exif.webp", "48x32", "030000 000000 fdff00 ffff00"},
		{"png-exif-chunk.png", "24x40", sideways},
		{"png-raw-profile-exif.png", "40x24", "f1b25c 1e28fa 14f01e fa1414"},
		{"tiff-orientation.tiff", "24x40", sideways},
		{"tiff-orientation-deflate.tiff", "40x24", "f1b25c 1e28fa 14f01e fa1414"},
		{"jpeg-exif-header-twice.jpg", "32x48", "fd0100 fd00ff 00ffff feff00"},
		{"jpeg-exif-orientation-long.jpg", "32x48", "fd0100 fd00ff 00ffff feff00"},
		{"jpeg-exif-6.jpg", "24x40", "fd0100 00ffff 0201fd ff00ff"},
		{"png-exif-1.png", "40x24", "00ffff ff00ff ff0000 0000ff"},
	} {
		got, err := decode(t, codec, readOwn(t, "orientation/"+test.file))
		if err != nil {
			t.Errorf("%s: %v", test.file, err)
			continue
		}
		if size := fmt.Sprintf("%dx%d", got.Width, got.Height); size != test.size || corners(got) != test.corners {
			t.Errorf("%s: %s, corners %s, want %s, %s", test.file, size, corners(got), test.size, test.corners)
		}
	}
}

// Without EXIF, as in the Sanic demo, only a TIFF is turned: its orientation is the format's own, and Pillow applies it as it
// loads the file.
func TestIgnoredEXIF(t *testing.T) {
	codec := keeping(t, func(c *imagecodec.Config) { c.EXIF = settings.Ignore })
	for file, width := range map[string]int{
		"webp-lossless-exif.webp": 40, "png-exif-chunk.png": 40, "jpeg-exif-6.jpg": 40, "tiff-orientation.tiff": 24,
	} {
		if got, err := decode(t, codec, readOwn(t, "orientation/"+file)); err != nil || got.Width != width {
			t.Errorf("%s: width %d, want %d, %v", file, got.Width, width, err)
		}
	}
	codec = newCodec(t, func() imagecodec.Config { c := config(); c.EXIF = settings.Ignore; return c }())
	got, err := decode(t, codec, readOwn(t, "orientation/tiff-orientation-compat.tiff"))
	if want := "1e28fa fa1414 501339 14f01e"; err != nil || corners(got) != want {
		t.Errorf("corners %s, want %s, %v", corners(got), want, err)
	}
}

// exifData returns EXIF data with one field.
func exifData(order binary.ByteOrder, tag, kind uint16, value []byte) []byte {
	b := []byte("II*\x00")
	if order == binary.BigEndian {
		b = []byte("MM\x00*")
	}
	app := order.(binary.AppendByteOrder)
	b = app.AppendUint16(app.AppendUint32(b, 8), 1)
	b = app.AppendUint32(app.AppendUint16(app.AppendUint16(b, tag), kind), 1)
	b = append(b, value...)
	return append(b, make([]byte, 4-len(value)+4)...)
}

// turned returns EXIF data with an orientation.
func turned(orientation byte) []byte {
	return exifData(binary.LittleEndian, 0x112, 3, []byte{orientation, 0})
}

// wide returns an image of 3x1 pixels: red, green, blue, which no conversion of colours leaves alone.
func wide() image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, 3, 1))
	for x, c := range []color.NRGBA{{255, 60, 60, 255}, {60, 255, 60, 255}, {60, 60, 255, 255}} {
		img.SetNRGBA(x, 0, c)
	}
	return img
}

// pngWith returns a PNG of 3x1 pixels with chunks after its header, and with chunks after its pixels.
func pngWith(t testing.TB, before, after []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, wide()); err != nil {
		t.Fatal(err)
	}
	const header, end = 33, 12
	file := b.Bytes()
	return slices.Concat(file[:header], before, file[header:len(file)-end], after, file[len(file)-end:])
}

// jpegWith returns a JPEG of 3x1 pixels with segments after its first marker.
func jpegWith(t testing.TB, segments ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, wide(), nil); err != nil {
		t.Fatal(err)
	}
	return slices.Concat(b.Bytes()[:2], slices.Concat(segments...), b.Bytes()[2:])
}

func segment(marker byte, content ...string) []byte {
	text := strings.Join(content, "")
	return append([]byte{0xff, marker, byte((len(text) + 2) >> 8), byte(len(text) + 2)}, text...)
}

func deflated(data []byte) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

const (
	exifHead = "Exif\x00\x00"
	xmpHead  = "http://ns.adobe.com/xap/1.0/\x00"
)

// magick returns EXIF data as ImageMagick writes it into a text.
func magick(data []byte) string {
	digits := hex.EncodeToString(append([]byte(exifHead), data...))
	var lines strings.Builder
	for len(digits) > 0 {
		n := min(72, len(digits))
		lines.WriteString("\n" + digits[:n])
		digits = digits[n:]
	}
	return fmt.Sprintf("\nexif\n    %d%s\n", len(data)+len(exifHead), lines.String())
}

// An orientation is found in all places and forms, and what is damaged leaves the image as it is stored.
func TestPlacesOfTheOrientation(t *testing.T) {
	const xmp = `<x:xmpmeta><rdf:Description tiff:Make="a" tiff:Orientation="6"/></x:xmpmeta>`
	six := turned(6)
	codec := keeping(t, nil)
	for name, test := range map[string]struct {
		file   []byte
		turned bool
	}{
		"JPEG, big-endian":                        {jpegWith(t, segment(0xe1, exifHead, string(exifData(binary.BigEndian, 0x112, 3, []byte{0, 6})))), true},
		"JPEG, BYTE":                              {jpegWith(t, segment(0xe1, exifHead, string(exifData(binary.BigEndian, 0x112, 1, []byte{6})))), true},
		"JPEG, after XMP and JFIF":                {jpegWith(t, segment(0xe0, "JFIF\x00"), segment(0xe1, xmpHead, "no orientation"), segment(0xe1, exifHead, string(six))), true},
		"JPEG, fill bytes":                        {jpegWith(t, []byte{0xff, 0xff}, segment(0xe1, exifHead, string(six))), true},
		"JPEG, XMP":                               {jpegWith(t, segment(0xe1, xmpHead, xmp)), true},
		"JPEG, XMP as an element":                 {jpegWith(t, segment(0xe1, xmpHead, "<tiff:Orientation>6</tiff:Orientation>")), true},
		"JPEG, XMP in apostrophes":                {jpegWith(t, segment(0xe1, xmpHead, "tiff:Orientation = '6'")), true},
		"JPEG, EXIF says upright, XMP doesn't":    {jpegWith(t, segment(0xe1, exifHead, string(turned(1))), segment(0xe1, xmpHead, xmp)), false},
		"JPEG, EXIF without an orientation, XMP":  {jpegWith(t, segment(0xe1, exifHead, string(exifData(binary.LittleEndian, 0x110, 3, []byte{6, 0}))), segment(0xe1, xmpHead, xmp)), true},
		"JPEG, orientation 9":                     {jpegWith(t, segment(0xe1, exifHead, string(turned(9)))), false},
		"JPEG, orientation 0":                     {jpegWith(t, segment(0xe1, exifHead, string(turned(0)))), false},
		"JPEG, orientation as a fraction":         {jpegWith(t, segment(0xe1, exifHead, string(exifData(binary.LittleEndian, 0x112, 5, []byte{6, 0, 0, 0})))), false},
		"JPEG, EXIF cut":                          {jpegWith(t, segment(0xe1, exifHead, string(six[:15]))), false},
		"JPEG, XMP 16":                            {jpegWith(t, segment(0xe1, xmpHead, `tiff:Orientation="16"`)), false},
		"JPEG, XMP cut":                           {jpegWith(t, segment(0xe1, xmpHead, `tiff:Orientation="6`)), false},
		"PNG, eXIf after the pixels":              {pngWith(t, nil, pngChunk("eXIf", six)), true},
		"PNG, eXIf with a prefix":                 {pngWith(t, pngChunk("eXIf", append([]byte(exifHead), six...)), nil), true},
		"PNG, a wrong checksum":                   {pngWith(t, nil, append(pngChunk("eXIf", six)[:12+len(six)-4], 1, 2, 3, 4)), false},
		"PNG, tEXt":                               {pngWith(t, pngChunk("tEXt", []byte("Raw profile type exif\x00"+magick(six))), nil), true},
		"PNG, tEXt APP1":                          {pngWith(t, pngChunk("tEXt", []byte("Raw profile type APP1\x00"+magick(six))), nil), true},
		"PNG, zTXt":                               {pngWith(t, pngChunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), deflated([]byte(magick(six)))...)), nil), true},
		"PNG, iTXt":                               {pngWith(t, pngChunk("iTXt", []byte("Raw profile type exif\x00\x00\x00en\x00k\x00"+magick(six))), nil), true},
		"PNG, deflated iTXt":                      {pngWith(t, pngChunk("iTXt", append([]byte("Raw profile type exif\x00\x01\x00\x00\x00"), deflated([]byte(magick(six)))...)), nil), true},
		"PNG, zTXt cut":                           {pngWith(t, pngChunk("zTXt", []byte("Raw profile type exif\x00")), nil), false},
		"PNG, iTXt cut":                           {pngWith(t, pngChunk("iTXt", []byte("Raw profile type exif\x00\x00")), nil), false},
		"PNG, XMP":                                {pngWith(t, pngChunk("iTXt", []byte("XML:com.adobe.xmp\x00\x00\x00\x00\x00"+xmp)), nil), true},
		"PNG, eXIf wins over the text and XMP":    {pngWith(t, slices.Concat(pngChunk("tEXt", []byte("Raw profile type exif\x00"+magick(six))), pngChunk("eXIf", turned(1))), nil), false},
		"PNG, a bomb of text is cut":              {pngWith(t, pngChunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), deflated(make([]byte, 50<<20))...)), nil), false},
		"PNG, a text that is no profile":          {pngWith(t, pngChunk("tEXt", []byte("Raw profile type exif\x00\nexif\n 4\nzz")), nil), false},
		"PNG, EXIF whose directory is its header": {pngWith(t, pngChunk("eXIf", []byte("II*\x00\x00\x00\x00\x00")), nil), false},
	} {
		got, err := decode(t, codec, test.file)
		if err != nil || (got.Width == 1) != test.turned || got.Width*got.Height != 3 {
			t.Errorf("%s: %dx%d, want turned: %v, %v", name, got.Width, got.Height, test.turned, err)
		}
	}
}

// All eight orientations turn each format as they turn a JPEG.
func TestEachOrientationOfAPNG(t *testing.T) {
	// Where the pixels red, green and blue of a row go: the size, and whether red comes last.
	for orientation, want := range map[byte]string{1: "3x1 rgb", 2: "3x1 bgr", 3: "3x1 bgr", 4: "3x1 rgb", 5: "1x3 rgb", 6: "1x3 rgb", 7: "1x3 bgr", 8: "1x3 bgr"} {
		got, err := decode(t, keeping(t, nil), pngWith(t, pngChunk("eXIf", turned(orientation)), nil))
		if err != nil {
			t.Fatal(err)
		}
		order := ""
		for i := range 3 {
			order += string("rgb"[bytes.IndexByte(got.Pixels[3*i:3*i+3], 255)])
		}
		if text := fmt.Sprintf("%dx%d %s", got.Width, got.Height, order); text != want {
			t.Errorf("orientation %d: %s, want %s", orientation, text, want)
		}
	}
}
