package imagecodec_test

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// The pixels of an AVIF are exactly those of dav1d's C code, of which parts are replaced by SIMD. The sums were made with the
// module from before that. Pillow's pixels differ by its upsampling of chroma.
func TestAVIFExact(t *testing.T) {
	c := config()
	c.Size, c.Grayscale, c.Color = settings.Size{}, settings.ToRGB, settings.IgnoreColor
	codec := newCodec(t, c)
	for file, want := range map[string]string{
		"avif/coarse.avif":   "13f2f64c96fee377",
		"avif/middle.avif":   "f9e1ffe592209a3d",
		"avif/fine-444.avif": "ba2b105cf6a98b98",
		"avif/lossless.avif": "f5a183d16236fc50",
		"avif/grain.avif":    "1c2bad417491be12",
		"formats/large.avif": "23be0448b8e98a1e",
		"formats/422.avif":   "fe30c1efa89ca8e8",
		"formats/400.avif":   "3e1680401bcddf17",
		"colour/pq.avif":     "2c995406593eeefc",
	} {
		t.Run(file, func(t *testing.T) {
			img, err := decode(t, codec, goldens.Read(t, file))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%x", sha256.Sum256(img.Pixels))[:16]; got != want {
				t.Errorf("the sum of the pixels is %s instead of %s", got, want)
			}
		})
	}
}
