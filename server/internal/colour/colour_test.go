package colour_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"path"
	"slices"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/colour"
)

// An expectation is an image in the colours of a profile, and what Little CMS makes of its patches; or one of PQ or HLG, and what
// the formulas of BT.2100 do.
type expectation struct {
	Name, File string
	SRGB       [][3]float64
}

func expectations(t testing.TB) []expectation {
	t.Helper()
	var e []expectation
	if err := json.Unmarshal(goldens.Read(t, "colour/expected.json"), &e); err != nil || len(e) < 8 {
		t.Fatal(len(e), err)
	}
	return e
}

func profile(t testing.TB, name string) []byte {
	t.Helper()
	return goldens.Read(t, "colour/"+name+".icc")
}

// pixels returns the patches of a PNG of 16x16 pixels.
func pixels(t testing.TB, file string) []byte {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(goldens.Read(t, "colour/"+file)))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, sample := range samplesOf(img) {
		out = append(out, byte(sample>>8))
	}
	return out
}

// samplesOf returns the patches of an image of 16x16 pixels with 16 bits.
func samplesOf(img image.Image) (out []uint16) {
	for i := range 256 {
		r, g, b, _ := img.At(i%16, i/16).RGBA()
		out = append(out, uint16(r), uint16(g), uint16(b))
	}
	return out
}

// Each patch is within a level of what Little CMS computes in floating point.
func TestEqualsLittleCMS(t *testing.T) {
	for _, e := range expectations(t) {
		if path.Ext(e.File) != ".png" {
			continue // package imagecodec decodes it
		}
		transform := transformOf(t, e.Name)
		if (transform == nil) != (e.Name == "srgb") {
			t.Errorf("%s: does nothing: %v", e.Name, transform == nil)
		}
		img, err := png.Decode(bytes.NewReader(goldens.Read(t, "colour/"+e.File)))
		if err != nil {
			t.Fatal(err)
		}
		got := pixels(t, e.File)
		switch img.(type) {
		case *image.Gray16, *image.RGBA64:
			if transform != nil {
				transform.Apply16(got, samplesOf(img))
			}
		default:
			transform.Apply(got)
		}
		worst := 0.0
		for i, want := range e.SRGB {
			for c, v := range want {
				d := math.Abs(float64(got[3*i+c]) - v)
				worst = max(worst, d)
				if d > 1 {
					t.Errorf("%s, patch %d: %v, want %v", e.File, i, got[3*i:3*i+3], want)
					break
				}
			}
		}
		t.Logf("%s: at most %.2f", e.File, worst)
	}
}

// transformOf returns the Transform of an expectation.
func transformOf(t testing.TB, name string) *colour.Transform {
	t.Helper()
	const bt2020 = 9
	var transform *colour.Transform
	var err error
	switch name {
	case "pq":
		transform, err = colour.FromCICP(bt2020, 16)
	case "hlg":
		transform, err = colour.FromCICP(bt2020, 18)
	case "gray":
		transform, err = colour.FromICC(t.Context(), profile(t, name), colour.Gray)
	case "cmyk":
		transform, err = colour.FromICC(t.Context(), profile(t, name), colour.CMYK)
	default:
		transform, err = colour.FromICC(t.Context(), profile(t, name), colour.RGB)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return transform
}

// The profile for responses is sRGB.
func TestSRGB(t *testing.T) {
	if transform, err := colour.FromICC(t.Context(), colour.SRGB(), colour.RGB); transform != nil || err != nil {
		t.Errorf("does nothing: %v, %v", transform == nil, err)
	}
}

// Code points of H.273 that stand for the colours of a profile give its conversion.
func TestCICP(t *testing.T) {
	for _, same := range []struct {
		primaries, transfer uint8
		profile             string
	}{{12, 13, "display-p3"}, {1, 13, "srgb"}, {2, 2, "srgb"}, {1, 1, "srgb"}} {
		byProfile, err := colour.FromICC(t.Context(), profile(t, same.profile), colour.RGB)
		if err != nil {
			t.Fatal(err)
		}
		byNumbers, err := colour.FromCICP(same.primaries, same.transfer)
		if err != nil || (byNumbers == nil) != (byProfile == nil) {
			t.Fatal(same, byNumbers == nil, err)
		}
		want, got := pixels(t, same.profile+".png"), pixels(t, same.profile+".png")
		byProfile.Apply(want)
		byNumbers.Apply(got)
		for i := range got {
			if d := int(got[i]) - int(want[i]); d < -1 || d > 1 {
				t.Errorf("%v: byte %d is %d, want %d", same, i, got[i], want[i])
			}
		}
	}
	const numbersOfPrimaries, numbersOfCurves = 12, 17 // that tables 2 and 3 define
	known := map[[2]bool]int{}
	for number := range 256 {
		_, err := colour.FromCICP(uint8(number), 13)
		known[[2]bool{false, err == nil}]++
		_, err = colour.FromCICP(1, uint8(number))
		known[[2]bool{true, err == nil}]++
	}
	if p, c := known[[2]bool{false, true}], known[[2]bool{true, true}]; p != numbersOfPrimaries || c != numbersOfCurves {
		t.Errorf("%d primaries and %d transfer characteristics are known, want %d and %d", p, c, numbersOfPrimaries, numbersOfCurves)
	}
	for primaries := range 256 {
		for transfer := range 256 {
			transform, err := colour.FromCICP(uint8(primaries), uint8(transfer))
			white := []byte{255, 255, 255}
			transform.Apply(white)
			if err == nil && !bytes.Equal(white, []byte{255, 255, 255}) {
				t.Errorf("%d/%d: white becomes %v", primaries, transfer, white)
			}
		}
	}
}

// A gamma of 1/2.2 is sRGB's curve; other gammas are powers.
func TestGamma(t *testing.T) {
	for _, test := range []struct {
		gamma     float64
		primaries *colour.Primaries
		want      string
	}{
		{0.45455, nil, "[64 128 192]"},
		{1, nil, "[137 188 225]"},
		{1 / 1.8, nil, "[81 146 203]"},
		{0.45455, &colour.Primaries{Red: colour.Chromaticity{X: 0.64, Y: 0.33}, Green: colour.Chromaticity{X: 0.3, Y: 0.6}, Blue: colour.Chromaticity{X: 0.15, Y: 0.06}, White: colour.Chromaticity{X: 0.3127, Y: 0.329}}, "[64 128 192]"},
	} {
		transform, err := colour.FromGamma(test.gamma, test.primaries)
		if err != nil {
			t.Fatal(err)
		}
		got := []byte{64, 128, 192}
		transform.Apply(got)
		if fmt.Sprint([3]byte(got)) != test.want {
			t.Errorf("gamma %v: %v, want %s", test.gamma, got, test.want)
		}
	}
	for _, gamma := range []float64{0, -1, math.NaN(), 1e9} {
		if _, err := colour.FromGamma(gamma, nil); err == nil {
			t.Errorf("gamma %v is accepted", gamma)
		}
	}
	if _, err := colour.FromGamma(1, &colour.Primaries{}); err == nil {
		t.Error("primaries of zeros are accepted")
	}
}

// What is wrong with a profile is an error.
func TestBrokenProfiles(t *testing.T) {
	p3 := profile(t, "display-p3")
	for n := range p3 {
		if transform, err := colour.FromICC(t.Context(), p3[:n], colour.RGB); err == nil && transform == nil {
			t.Errorf("cut at %d: nothing to do", n)
		}
	}
	ofClass := func(class string) []byte { return slices.Concat(p3[:12], []byte(class), p3[16:]) }
	for name, test := range map[string]struct {
		profile  []byte
		channels colour.Channels
	}{
		"empty": {nil, colour.RGB}, "text": {bytes.Repeat([]byte("no profile "), 50), colour.RGB},
		"gray for RGB": {profile(t, "gray"), colour.RGB}, "CMYK for RGB": {profile(t, "cmyk"), colour.RGB}, "RGB for CMYK": {p3, colour.CMYK},
		"device link": {ofClass("link"), colour.RGB}, "abstract": {ofClass("abst"), colour.RGB}, "named colours": {ofClass("nmcl"), colour.RGB},
		"too large": {append(bytes.Clone(p3), make([]byte, colour.MaxProfile)...), colour.RGB},
	} {
		if _, err := colour.FromICC(t.Context(), test.profile, test.channels); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A Cache returns the same Transform for the same Space, also after others, and keeps a bounded number.
func TestCache(t *testing.T) {
	var cache colour.Cache
	get := func(s colour.Space, channels colour.Channels) *colour.Transform {
		t.Helper()
		transform, err := cache.Transform(t.Context(), s, channels)
		if err != nil {
			t.Fatal(err)
		}
		return transform
	}
	p3, adobe := colour.Space{Profile: profile(t, "display-p3")}, colour.Space{Profile: profile(t, "adobe-rgb")}
	first, other := get(p3, colour.RGB), get(adobe, colour.RGB)
	if first == nil || first == other || get(p3, colour.RGB) != first || get(adobe, colour.RGB) != other {
		t.Error("not the Transform of its profile")
	}
	if get(p3, colour.Gray) == first {
		t.Error("the Transform of other pixels")
	}
	if get(colour.Space{Primaries: 9, Transfer: 13}, colour.RGB) == get(colour.Space{Gamma: 1}, colour.RGB) {
		t.Error("the Transform of another Space")
	}
	if allocs := testing.AllocsPerRun(10, func() { get(p3, colour.RGB) }); allocs > 0 {
		t.Errorf("%v allocations for a Transform that is kept", allocs)
	}
	broken := colour.Space{Profile: []byte("broken")}
	_, err := cache.Transform(t.Context(), broken, colour.RGB)
	if _, again := cache.Transform(t.Context(), broken, colour.RGB); err == nil || !errors.Is(again, err) {
		t.Errorf("%v, then %v", err, again)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	cmyk := colour.Space{Profile: profile(t, "cmyk")}
	if _, err := cache.Transform(ended, cmyk, colour.CMYK); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	get(cmyk, colour.CMYK) // the error of a request that ended isn't kept
	for i := range 100 {
		get(colour.Space{Gamma: 1 + float64(i)/100}, colour.RGB)
	}
	if get(p3, colour.RGB) == first {
		t.Error("a Transform is kept after 100 others")
	}
}

// A profile that announces more than it has is refused before memory is allocated for it.
func TestProfilesOfBombs(t *testing.T) {
	tag := func(name string, sig, kind string, at int, value ...byte) []byte {
		data := bytes.Clone(profile(t, name))
		table := bytes.Index(data[132:], []byte(sig)) + 132
		offset := int(data[table+6])<<8 | int(data[table+7])
		copy(data[offset:], kind)
		copy(data[offset+at:], value)
		return data
	}
	count := bytes.Clone(profile(t, "display-p3"))
	copy(count[128:], []byte{0xff, 0xff, 0xff, 0xff})
	for name, data := range map[string][]byte{
		"tags":                        count,
		"entries of a curve":          tag("table", "rTRC", "curv", 8, 0xff, 0xff, 0xff, 0xf0),
		"entries of a lut16's curves": tag("rgb-lut16", "A2B0", "mft2", 48, 0xff, 0xff),
		"a lut16 of 255 inputs":       tag("rgb-lut16", "A2B0", "mft2", 8, 255),
		"a table of no bytes":         tag("rgb-lut16", "A2B0", "mAB ", 24, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0),
	} {
		if _, err := colour.FromICC(t.Context(), data, colour.RGB); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Making a Transform ends with its context.
func TestFromICCEndsWithItsContext(t *testing.T) {
	left := errors.New("the client left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(left)
	if _, err := colour.FromICC(ctx, profile(t, "cmyk"), colour.CMYK); !errors.Is(err, left) {
		t.Error(err)
	}
}

// FuzzICC looks for profiles that break or take memory, and for Transforms that leave their pixels.
func FuzzICC(f *testing.F) {
	for _, name := range []string{"srgb", "display-p3", "adobe-rgb", "table", "gray", "rgb-lut8", "rgb-lut16", "rgb-mab", "cmyk"} {
		f.Add(profile(f, name), uint8(0))
	}
	f.Add(profile(f, "gray"), uint8(1))
	f.Add(profile(f, "cmyk"), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, kind uint8) {
		channels := []colour.Channels{colour.RGB, colour.Gray, colour.CMYK}[kind%3]
		transform, err := colour.FromICC(t.Context(), data, channels)
		if err != nil {
			return
		}
		pixels := goldens.Noise(1, 3*64)
		if channels == colour.CMYK {
			transform.ApplyInks(pixels, bytes.Clone(pixels), bytes.Clone(pixels))
		} else {
			transform.Apply(pixels)
		}
		if transform != nil {
			samples := make([]uint16, len(pixels)/3*4)
			for i := range samples {
				samples[i] = uint16(i * 257)
			}
			transform.Apply16(pixels, samples)
		}
	})
}

func BenchmarkFromICC(b *testing.B) {
	for name, channels := range map[string]colour.Channels{"display-p3": colour.RGB, "rgb-lut16": colour.RGB, "cmyk": colour.CMYK, "gray": colour.Gray} {
		data := profile(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := colour.FromICC(b.Context(), data, channels); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	pixels := goldens.Noise(1, 3*1000*1000)
	for name, channels := range map[string]colour.Channels{"display-p3": colour.RGB, "rgb-lut16": colour.RGB, "cmyk": colour.CMYK, "gray": colour.Gray} {
		transform, err := colour.FromICC(b.Context(), profile(b, name), channels)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if channels == colour.CMYK {
					transform.ApplyInks(pixels, pixels, pixels)
				} else {
					transform.Apply(pixels)
				}
			}
		})
	}
	samples := make([]uint16, 4*len(pixels)/3)
	for i, v := range goldens.Noise(2, len(samples)) {
		samples[i] = uint16(v) * 251
	}
	for _, name := range []string{"display-p3", "rgb-lut16", "hlg", "cmyk"} {
		transform := transformOf(b, name)
		b.Run(name+", 16 bits", func(b *testing.B) {
			for b.Loop() {
				transform.Apply16(pixels, samples)
			}
		})
	}
}
