package imagecodec_test

import (
	"bytes"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/heif"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// withHEIC returns a codec that decodes HEIC, and skips the test where libheif isn't installed.
func withHEIC(t *testing.T, change func(c *imagecodec.Config)) *imagecodec.Codec {
	t.Helper()
	decoder, err := heif.New(goldens.HEICDecoder())
	if err != nil {
		t.Skip(err)
	}
	return keeping(t, func(c *imagecodec.Config) {
		c.HEIC = decoder
		if change != nil {
			change(c)
		}
	})
}

// The pixels are those of the drawing that was encoded, within what the encoder loses; a phone's file of tiles is turned as it
// says.
func TestHEIC(t *testing.T) {
	codec := withHEIC(t, nil)
	drawing, err := decode(t, codec, goldens.Read(t, "heic/drawing.png"))
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]func(x, y int) (int, int){
		"rgb.heic":  func(x, y int) (int, int) { return x, y },
		"rgba.heic": func(x, y int) (int, int) { return x, y },
		"grid.heic": func(x, y int) (int, int) { return y, drawing.Height - 1 - x }, // to the right
	} {
		got, err := decode(t, codec, goldens.Read(t, "heic/"+name))
		if err != nil || got.Width*got.Height != drawing.Width*drawing.Height {
			t.Errorf("%s: %dx%d, %v", name, got.Width, got.Height, err)
			continue
		}
		const tolerance = 10
		for i := range got.Width * got.Height {
			x, y := at(i%got.Width, i/got.Width)
			for c := range 3 {
				want := int(drawing.Pixels[3*(y*drawing.Width+x)+c])
				if d := int(got.Pixels[3*i+c]) - want; max(d, -d) > tolerance {
					t.Fatalf("%s: channel %d of pixel %d is %d, want %d", name, c, i, got.Pixels[3*i+c], want)
				}
			}
		}
	}
	keep := withHEIC(t, func(c *imagecodec.Config) { c.Alpha.Keep = true })
	got, err := decode(t, keep, goldens.Read(t, "heic/rgba.heic"))
	if err == nil {
		got, err = keep.WithAlpha(t.Context(), got, got, settings.PNG)
	}
	if err != nil || got.Channels != 4 || got.Pixels[3] > 10 || got.Pixels[len(got.Pixels)-1] < 245 {
		t.Errorf("%d channels, %v", got.Channels, err)
	}
}

func TestRefusedHEIC(t *testing.T) {
	file := goldens.Read(t, "heic/rgb.heic")
	_, err := decode(t, keeping(t, nil), file)
	expectReason(t, err, imagecodec.UnknownFormat, "the format HEIC isn't supported here")
	expectReason(t, err, imagecodec.UnknownFormat, "--heic=system")
	codec := withHEIC(t, nil)
	_, err = decode(t, codec, file[:len(file)-1000])
	expectReason(t, err, imagecodec.Broken, "broken HEIC: ")
	_, err = decode(t, codec, bytes.Replace(file, []byte("hvc1"), []byte("unci"), 1))
	expectReason(t, err, imagecodec.Unsupported, `a HEIC with a primary image of the type "unci" isn't supported`)
}
