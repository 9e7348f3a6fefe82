package imagecodec_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A field of EXIF data, of type ASCII, SHORT or LONG.
type field struct {
	tag, kind uint16
	value     []byte
}

// directory appends a directory to EXIF data. Values that are longer than 4 bytes follow it.
func directory(data []byte, next uint32, fields ...field) []byte {
	o := binary.LittleEndian
	at := len(data) + 2 + 12*len(fields) + 4
	var values []byte
	data = o.AppendUint16(data, uint16(len(fields)))
	for _, f := range fields {
		size := map[uint16]int{2: 1, 3: 2, 4: 4}[f.kind]
		data = o.AppendUint32(o.AppendUint16(o.AppendUint16(data, f.tag), f.kind), uint32(len(f.value)/size))
		if len(f.value) <= 4 {
			data = append(append(data, f.value...), make([]byte, 4-len(f.value))...)
			continue
		}
		data = o.AppendUint32(data, uint32(at+len(values)))
		values = append(values, f.value...)
	}
	return append(o.AppendUint32(data, next), values...)
}

// photo returns EXIF data as a phone writes it: sideways, with a place, a maker's note and a thumbnail.
func photo() []byte {
	offset := func(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }
	build := func(own, gps, thumbnail int) (data []byte, ends [3]int) {
		data = directory([]byte("II*\x00\x08\x00\x00\x00"), uint32(thumbnail), field{0x010f, 2, []byte("a camera\x00\x00")}, field{0x0100, 3, []byte{9, 0}},
			field{0x0112, 3, []byte{6, 0}}, field{0x8298, 2, []byte("by a person\x00")}, field{0x8769, 4, offset(own)}, field{0x8825, 4, offset(gps)})
		ends[0] = len(data)
		data = directory(data, 0, field{0x9003, 2, []byte("2026:11:27 10:00:00\x00")}, field{0x927c, 2, []byte("secret of the maker\x00")},
			field{0xa001, 3, []byte{0xff, 0xff}}, field{0xa002, 4, offset(4000)})
		ends[1] = len(data)
		data = directory(data, 0, field{0x0001, 2, []byte("N\x00")}, field{0x0002, 2, []byte("48 degrees north\x00\x00")})
		ends[2] = len(data)
		return directory(data, 0, field{0x0201, 2, []byte("a thumbnail of the room\x00")}), ends
	}
	_, ends := build(0, 0, 0)
	data, _ := build(ends[0], ends[1], ends[2])
	return data
}

const packet = `<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:creator="a person"/></x:xmpmeta>`

// answer decodes a file and encodes the pixels with what the codec takes over of it.
func answer(t *testing.T, codec *imagecodec.Codec, file []byte, format settings.Format) []byte {
	t.Helper()
	in, err := codec.Prepare(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := codec.Decode(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := codec.Encode(t.Context(), p, imagecodec.Encoding{Format: format, Metadata: codec.Metadata(in)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What a response has of its image's metadata, in each format: everything that isn't a place, in EXIF data made anew.
func TestMetadataOfResponses(t *testing.T) {
	p3 := goldens.Read(t, "colour/display-p3.icc")
	srgb := goldens.Read(t, "colour/srgb.icc")
	file := jpegWith(t, append(iccSegments(p3, 60000), segment(0xe1, exifHead, string(photo())), segment(0xe1, xmpHead, packet))...)
	for _, format := range []settings.Format{settings.JPEG, settings.PNG, settings.WebP} {
		bare := answer(t, keeping(t, nil), file, format)
		read := func(metadata settings.Metadata, color settings.Color) (out []byte, exif, xmp, icc []byte) {
			out = answer(t, keeping(t, func(c *imagecodec.Config) { c.Metadata, c.Color = metadata, color }), file, format)
			d := imagecodec.DetailsOf(out)
			return out, d.EXIF, d.XMP, d.ICC
		}
		if out, exif, xmp, icc := read(settings.NoMetadata, ""); !bytes.Equal(out, bare) || exif != nil || xmp != nil || icc != nil {
			t.Errorf("%s, none: %d bytes of EXIF, %d of XMP, %d of ICC", format, len(exif), len(xmp), len(icc))
		}
		if _, exif, xmp, icc := read(settings.ColorMetadata, ""); exif != nil || xmp != nil || !bytes.Equal(icc, srgb) {
			t.Errorf("%s, color: %d bytes of EXIF, %d of XMP, %d of ICC", format, len(exif), len(xmp), len(icc))
		}
		if _, _, _, icc := read(settings.ColorMetadata, settings.IgnoreColor); !bytes.Equal(icc, p3) {
			t.Errorf("%s, color as sent: %d bytes of ICC", format, len(icc))
		}
		out, exif, xmp, icc := read(settings.MostOfMetadata, "")
		if !bytes.Equal(icc, srgb) || string(xmp) != strings.Replace(packet, `"6"`, `"1"`, 1) {
			t.Errorf("%s, all: %d bytes of ICC, XMP %q", format, len(icc), xmp)
		}
		for _, kept := range []string{"a camera", "by a person", "2026:11:27 10:00:00"} {
			if !bytes.Contains(exif, []byte(kept)) {
				t.Errorf("%s: %q is lost: %q", format, kept, exif)
			}
		}
		for _, secret := range []string{"degrees", "secret", "thumbnail", "\x25\x88"} {
			if bytes.Contains(exif, []byte(secret)) {
				t.Errorf("%s: %q is in the response: %q", format, secret, exif)
			}
		}
		// The pixels are those of a response without metadata, and upright.
		got, err := decode(t, keeping(t, nil), out)
		want, wantErr := decode(t, keeping(t, nil), bare)
		if err != nil || wantErr != nil || got.Width != 1 || !bytes.Equal(got.Pixels, want.Pixels) {
			t.Errorf("%s: %d wide, %v, %v", format, got.Width, err, wantErr)
		}
	}
	// As stored, the response is turned as its image.
	ignoring := keeping(t, func(c *imagecodec.Config) { c.Metadata, c.EXIF = settings.MostOfMetadata, settings.Ignore })
	if got, err := decode(t, keeping(t, nil), answer(t, ignoring, file, settings.PNG)); err != nil || got.Width != 1 {
		t.Errorf("as stored: %d wide, %v", got.Width, err)
	}
}

// XMP that may name a place is left out.
func TestPlacesInXMP(t *testing.T) {
	codec := keeping(t, func(c *imagecodec.Config) { c.Metadata = settings.MostOfMetadata })
	for _, property := range []string{`exif:GPSLatitude="48,1N"`, "<photoshop:City>here</photoshop:City>", "<Iptc4xmpExt:LocationShown/>", "<a:countryCode>x</a:countryCode>"} {
		file := jpegWith(t, segment(0xe1, xmpHead, packet+property))
		if out := answer(t, codec, file, settings.PNG); bytes.Contains(out, []byte("a person")) {
			t.Errorf("%s: the packet is in the response", property)
		}
	}
}

// EXIF data of each sender is read, whatever its file: a TIFF's fields, and a big-endian BigTIFF's.
func TestMetadataOfATIFF(t *testing.T) {
	codec := keeping(t, func(c *imagecodec.Config) { c.Metadata = settings.MostOfMetadata })
	out := answer(t, codec, tiffWith(t, wide(), 0x8298, []byte("by a person\x00")), settings.JPEG)
	if !bytes.Contains(out, []byte("by a person")) {
		t.Errorf("the copyright is lost: %q", out[:100])
	}
}

// FuzzMetadata looks for EXIF data whose copy breaks a response, or leads to a place.
func FuzzMetadata(f *testing.F) {
	f.Add(photo(), []byte(packet))
	f.Add(exifData(binary.BigEndian, 0x8298, 2, []byte("x")), []byte("tiff:Orientation="))
	codec := keeping(f, func(c *imagecodec.Config) { c.Metadata = settings.MostOfMetadata })
	f.Fuzz(func(t *testing.T, exif, xmp []byte) {
		file := pngWith(t, slices.Concat(pngChunk("eXIf", exif), pngChunk("iTXt", append([]byte("XML:com.adobe.xmp\x00\x00\x00\x00\x00"), xmp...))), nil)
		for _, format := range []settings.Format{settings.JPEG, settings.PNG, settings.WebP} {
			out := answer(t, codec, file, format)
			got, err := decode(t, codec, out)
			if err != nil || got.Width*got.Height != 3 {
				t.Fatalf("%s: %dx%d, %v", format, got.Width, got.Height, err)
			}
			if d := imagecodec.DetailsOf(out); d.Places || bytes.Contains(bytes.ToLower(d.XMP), []byte("gps")) {
				t.Fatalf("%s: a place is in the response", format)
			}
		}
	})
}

// An AVIF has the same as items, beside the pixels.
func TestMetadataOfAVIF(t *testing.T) {
	p3 := goldens.Read(t, "colour/display-p3.icc")
	file := jpegWith(t, append(iccSegments(p3, 60000), segment(0xe1, exifHead, string(photo())), segment(0xe1, xmpHead, packet))...)
	bare := answer(t, keeping(t, nil), file, settings.AVIF)
	for name, test := range map[string]struct {
		metadata settings.Metadata
		color    settings.Color
		has      []string
	}{
		"none":          {settings.NoMetadata, "", nil},
		"color":         {settings.ColorMetadata, "", []string{"colrprof" + string(goldens.Read(t, "colour/srgb.icc"))}},
		"color as sent": {settings.ColorMetadata, settings.IgnoreColor, []string{"colrprof" + string(p3)}},
		"all":           {settings.MostOfMetadata, "", []string{"colrprof", "a camera", "by a person", strings.Replace(packet, `"6"`, `"1"`, 1)}},
	} {
		out := answer(t, keeping(t, func(c *imagecodec.Config) { c.Metadata, c.Color = test.metadata, test.color }), file, settings.AVIF)
		for _, part := range test.has {
			if !bytes.Contains(out, []byte(part)) {
				t.Errorf("%s: %q is lost", name, part)
			}
		}
		if len(test.has) == 0 && !bytes.Equal(out, bare) {
			t.Errorf("%s: %d bytes, want %d", name, len(out), len(bare))
		}
		for _, secret := range []string{"degrees", "secret", "thumbnail"} {
			if bytes.Contains(out, []byte(secret)) {
				t.Errorf("%s: %q is in the response", name, secret)
			}
		}
		got, err := decode(t, keeping(t, nil), out)
		if err != nil || got.Width != 1 {
			t.Errorf("%s: %d wide, %v", name, got.Width, err)
		}
	}
}
