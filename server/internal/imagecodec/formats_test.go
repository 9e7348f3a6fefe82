package imagecodec_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A formatCase is a file of testdata/formats with what Pillow makes of it, or with the text with which it is refused.
// docs/images.md has the same table.
type formatCase struct {
	File, Format, Kind string
	Width, Height      int // 0: not compared
	Tolerance          int // the largest difference of a value
	Pixels             []struct {
		X, Y int
		RGB  string
	}
	Refused string
}

func formatCases(t testing.TB) []formatCase {
	t.Helper()
	var cases []formatCase
	if err := json.Unmarshal(goldens.Read(t, "formats/cases.json"), &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// Every kind of file is decoded as Pillow decodes it, or refused with a text that names what isn't supported.
func TestFormats(t *testing.T) {
	c := config()
	c.Size, c.Grayscale = settings.Size{}, settings.ToRGB
	codec := newCodec(t, c)
	for _, test := range formatCases(t) {
		t.Run(test.File, func(t *testing.T) {
			t.Parallel()
			img, err := decode(t, codec, goldens.Read(t, filepath.Join("formats", test.File)))
			if test.Refused != "" {
				reason := imagecodec.Unsupported
				if test.Kind == "every kind" {
					reason = imagecodec.UnknownFormat
				}
				expectReason(t, err, reason, test.Refused)
				if strings.Contains(err.Error(), "broken") {
					t.Errorf("the error says broken: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if test.Width != 0 && (img.Width != test.Width || img.Height != test.Height) {
				t.Fatalf("%dx%d instead of %dx%d", img.Width, img.Height, test.Width, test.Height)
			}
			for _, p := range test.Pixels {
				var want [3]uint8
				if _, err := fmt.Sscanf(p.RGB, "%02x%02x%02x", &want[0], &want[1], &want[2]); err != nil {
					t.Fatal(err)
				}
				got := [3]uint8(img.Pixels[3*(p.Y*img.Width+p.X):])
				for i := range want {
					if d := int(want[i]) - int(got[i]); max(d, -d) > test.Tolerance {
						t.Errorf("pixel %d,%d: %x instead of %x", p.X, p.Y, got, want)
						break
					}
				}
			}
		})
	}
}
