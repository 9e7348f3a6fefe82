package imagecodec_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
)

// jp2Box returns a box of a JP2 file.
func jp2Box(kind string, content ...byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(8+len(content))), kind...), content...)
}

// jp2With returns a JP2 file with other boxes in its header than the first two, which are of its size, and others before its end.
func jp2With(t *testing.T, name string, header, after []byte) []byte {
	t.Helper()
	file := goldens.Read(t, "formats/"+name)
	at := bytes.Index(file, []byte("jp2h")) - 4
	size := int(binary.BigEndian.Uint32(file[at:]))
	const ofSize = 22 // the box ihdr
	content := slices.Concat(file[at+8:][:ofSize], header)
	return slices.Concat(file[:at], jp2Box("jp2h", content...), after, file[at+size:])
}

var srgbColours = jp2Box("colr", 1, 0, 0, 0, 0, 0, 16)

// The boxes of a JP2 tell how the image is turned, its profile, and which component is which.
func TestBoxesOfJPEG2000(t *testing.T) {
	codec := keeping(t, nil)
	decoded := func(file []byte) imagecodec.Image {
		t.Helper()
		p, err := decode(t, codec, file)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	plain := decoded(goldens.Read(t, "formats/rgb.jp2"))
	if same := decoded(jp2With(t, "rgb.jp2", srgbColours, nil)); !bytes.Equal(plain.Pixels, same.Pixels) {
		t.Error("the same boxes give other pixels")
	}
	for name, uuid := range map[string][]byte{
		"EXIF": append([]byte("JpgTiffExif->JP2"), turned(6)...),
		"XMP":  append([]byte("\xbe\x7a\xcf\xcb\x97\xa9\x42\xe8\x9c\x71\x99\x94\x91\xe3\xaf\xac"), `tiff:Orientation="6"`...),
	} {
		p := decoded(jp2With(t, "rgb.jp2", srgbColours, jp2Box("uuid", uuid...)))
		if p.Width != plain.Height || !bytes.Equal(p.Pixels[3*(p.Width-1):][:3], plain.Pixels[:3]) {
			t.Errorf("%s: %dx%d, not turned to the right", name, p.Width, p.Height)
		}
	}
	// blue is the first component, and red the third
	swapped := jp2Box("cdef", 0, 3, 0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 2, 0, 2, 0, 0, 0, 1)
	p := decoded(jp2With(t, "rgb.jp2", slices.Concat(srgbColours, swapped), nil))
	for i := 0; i < len(p.Pixels); i += 3 {
		if p.Pixels[i] != plain.Pixels[i+2] || p.Pixels[i+1] != plain.Pixels[i+1] || p.Pixels[i+2] != plain.Pixels[i] {
			t.Fatalf("pixel %d is %v, and was %v", i/3, p.Pixels[i:i+3], plain.Pixels[i:i+3])
		}
	}
	profile := append([]byte{2, 0, 0}, goldens.Read(t, "colour/display-p3.icc")...)
	converted := decoded(jp2With(t, "rgb.jp2", jp2Box("colr", profile...), nil))
	if bytes.Equal(converted.Pixels, plain.Pixels) {
		t.Error("Display P3 isn't converted")
	}
}

// A file with errors is refused as broken, and one of another kind by its name, before or while it is decoded.
func TestRefusedJPEG2000(t *testing.T) {
	codec := keeping(t, nil)
	whole := goldens.Read(t, "formats/rgb.j2k")
	boxes := goldens.Read(t, "formats/rgb.jp2")
	size := bytes.Index(whole, []byte{0xff, 0x51})
	changed := func(at int, to ...byte) []byte {
		out := bytes.Clone(whole)
		copy(out[size+at:], to)
		return out
	}
	for name, test := range map[string]struct {
		file   []byte
		reason imagecodec.Reason
		text   string
	}{
		"cut":               {whole[:len(whole)/2], imagecodec.Broken, "broken JPEG 2000"},
		"cut, with boxes":   {boxes[:len(boxes)-100], imagecodec.Broken, "broken JPEG 2000: unexpected EOF"},
		"cut in its header": {whole[:30], imagecodec.Broken, "broken JPEG 2000"},
		"no codestream":     {boxes[:bytes.Index(boxes, []byte("jp2c"))-4], imagecodec.Broken, "no image"},
		"17 bits":           {changed(40, 16), imagecodec.Unsupported, "samples of 17 bits"},
		"five components":   {changed(38, 0, 5), imagecodec.Unsupported, "5 components"},
		"multiplied by alpha": {
			jp2With(t, "rgba.jp2", slices.Concat(srgbColours, jp2Box("cdef", 0, 1, 0, 3, 0, 2, 0, 0)), nil), imagecodec.Unsupported, "colours multiplied by their alpha",
		},
	} {
		_, err := decode(t, codec, test.file)
		if err == nil {
			t.Errorf("%s: decoded", name)
			continue
		}
		expectReason(t, err, test.reason, test.text)
	}
}
