package main

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The settings of model.yaml determine a model's input and output. An image of one colour shows their effect.
func TestSettingsOfAModel(t *testing.T) {
	t.Parallel()
	colour := color.NRGBA{200, 100, 50, 255}
	gray := uint8((19595*200 + 38470*100 + 7471*50 + 32768) >> 16)
	for _, test := range []struct {
		name, module, settings string
		want                   color.NRGBA
	}{
		{"no settings", "identity.pt", "", colour},
		{"channel order of input and output", "identity.pt", "channels: bgr", colour},
		{"one channel", "gray.pt", "channels: gray", color.NRGBA{gray, gray, gray, 255}},
		{"range of input and output", "identity.pt", "input-range: [-1, 1]\noutput-range: [-1, 1]", colour},
		{"range of the output", "identity.pt", "output-range: [0, 2]", color.NRGBA{100, 50, 25, 255}},
		{"range of the input", "identity.pt", "input-range: [1, 0]", color.NRGBA{55, 155, 205, 255}},
		{"mean and deviation", "identity.pt", "mean: [0.2, 0, 0]\nstd: [1, 1, 0.5]", color.NRGBA{149, 100, 100, 255}},
		{"mean and deviation in the channel order", "identity.pt", "channels: bgr\nmean: [0, 0, 0.2]\nstd: [0.5, 1, 1]", color.NRGBA{149, 100, 100, 255}},
		{"one mean for all channels", "identity.pt", "mean: [0.1]\nstd: [2]", color.NRGBA{87, 37, 12, 255}},
		{"range in the model's file", "other_range.pt", "", color.NRGBA{0, 0, 0, 0}},
	} {
		folder := newModelFolder(t, map[string]string{"1/model.pt": test.module, "model.yaml": test.settings + "\nsize: 8x8\nformat: png\n"})
		if test.module == "other_range.pt" { // its range is -1 to 1, and it computes 1 - x
			test.want = color.NRGBA{255, 255, 255, 255}
			for i, v := range []uint8{200, 100, 50} {
				negated := min(1-(float64(v)/255*2-1), 1)
				*[]*uint8{&test.want.R, &test.want.G, &test.want.B}[i] = uint8((negated + 1) / 2 * 255)
			}
		}
		r := start(t, folder).put(solid(t, colour))
		if r.status != 200 || r.header.Get("Content-Type") != "image/png" {
			t.Errorf("%s: got %d, %s, want 200, image/png", test.name, r.status, r.header.Get("Content-Type"))
			continue
		}
		got := color.NRGBAModel.Convert(decodePNG(t, r.body).At(3, 3)).(color.NRGBA)
		for i, pair := range [][2]uint8{{got.R, test.want.R}, {got.G, test.want.G}, {got.B, test.want.B}} {
			// Values are truncated, so a rounding error below a whole number changes it by one.
			if d := int(pair[0]) - int(pair[1]); d < -1 || d > 1 {
				t.Errorf("%s: channel %d = %d, want %d", test.name, i, pair[0], pair[1])
			}
		}
	}
}

// With size: keep, max-side and multiple-of apply to the input of the model.
func TestKeptSizes(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{
		"1/model.pt": "upscale2.pt", "model.yaml": "size: keep\nmultiple-of: 8\nfit: stretch\nmax-side: 64\nformat: png\nwarm-up: [64x48]\ngrayscale: rgb\nexif: ignore\n",
	})
	s := start(t, folder)
	for name, want := range map[string]image.Point{
		"jpeg-420.jpg":  {128, 80}, // 300x200 is resized to 64x43, then to 64x40
		"jpeg-gray.jpg": {},
		"exif-6.jpg":    {},
	} {
		stored, _, err := image.DecodeConfig(bytes.NewReader(photograph(t, name)))
		if err != nil {
			t.Fatal(err)
		}
		r := s.put(photograph(t, name))
		if r.status != 200 {
			t.Errorf("%s: got %d %s, want 200", name, r.status, r.body)
			continue
		}
		size := decodePNG(t, r.body).Bounds().Size()
		if want != (image.Point{}) && size != want {
			t.Errorf("%s: size = %v, want %v", name, size, want)
		}
		// The EXIF orientation is ignored, so the longer side stays the longer one.
		if size.X%16 != 0 || size.Y%16 != 0 || max(size.X, size.Y) > 128 || (stored.Width > stored.Height) != (size.X > size.Y) {
			t.Errorf("%s: got %v for an image of %dx%d, want multiples of 16 up to 128, the same side longer", name, size, stored.Width, stored.Height)
		}
	}
	// The format that a request names overrides the model's format.
	expectImage(t, s.do("PUT", "/image?format=jpeg", bytes.NewReader(photograph(t, "jpeg-420.jpg"))))
	expectImage(t, s.put(photograph(t, "jpeg-420.jpg"), "Accept", "image/jpeg"))
	if r := s.put(photograph(t, "jpeg-420.jpg"), "Accept", "*/*"); r.header.Get("Content-Type") != "image/png" {
		t.Errorf("with Accept: */*: got %s, want the model's image/png", r.header.Get("Content-Type"))
	}
}

// Flags override model.yaml in the model's folder, which overrides the settings inside the model's file.
func TestFlagsOverrideModelYAMLOverridesTheFile(t *testing.T) {
	t.Parallel()
	side := func(arguments ...string) int {
		t.Helper()
		r := start(t, arguments...).put(photograph(t, "jpeg-420.jpg"), "Accept", "image/png")
		return decodePNG(t, r.body).Bounds().Dx()
	}
	inside := module("with_settings.pt") // size: 40x40
	folder := newModelFolder(t, map[string]string{"1/model.pt": "with_settings.pt", "model.yaml": "size: 50x50"})
	for _, test := range []struct {
		want      int
		arguments []string
	}{{40, []string{inside}}, {50, []string{folder}}, {60, []string{folder, "--size", "60x60"}}, {24, []string{module("sized.pt")}}} {
		if got := side(test.arguments...); got != test.want {
			t.Errorf("%v: width = %d, want %d", test.arguments, got, test.want)
		}
	}
}

// A file with another digest than that in model.yaml isn't served.
func TestDigest(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	s := start(t, folder)
	putSettings(t, folder, "digest: sha256:"+strings.Repeat("00", 32))
	admin := s.admin
	r := admin.post("/v2/repository/models/net/load", "")
	expectError(t, r, 400, "the file's digest is sha256:")
	digest := regexp.MustCompile("sha256:[0-9a-f]{64}").FindString(string(r.body))
	putSettings(t, folder, "digest: "+digest)
	if r := admin.post("/v2/repository/models/net/load", ""); r.status != 200 {
		t.Errorf("load with the right digest: got %d %s, want 200", r.status, r.body)
	}
}

// On the CPU, nice values share the cores between models by weight.
func TestWeightsOfModels(t *testing.T) {
	t.Parallel()
	heavy := newModelFolder(t, map[string]string{"1/model.pt": "identity.pt", "model.yaml": "weight: 4"})
	light := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	if err := os.Rename(light, filepath.Join(filepath.Dir(light), "light")); err != nil {
		t.Fatal(err)
	}
	light = filepath.Join(filepath.Dir(light), "light")
	p := startProcess(t, light, heavy)
	nices := p.nices()
	// 1.25 to the power of 6 is 3.8, the ratio of the weights. Only the runner of the lighter model has a nice value.
	if slices.Max(nices) != 6 || slices.Min(nices) != 0 {
		t.Errorf("nice values = %v, want 0 to 6", nices)
	}
	photo := photograph(t, "jpeg-420.jpg")
	expectVersion(t, p.put(photo), 1)
	expectVersion(t, p.putTo("/image/net", photo), 1)
}

// nices returns the nice values of the process's threads.
func (p *process) nices() []int {
	p.t.Helper()
	tasks := fmt.Sprintf("/proc/%d/task", p.command.Process.Pid)
	entries, err := os.ReadDir(tasks)
	if err != nil {
		p.t.Skip("nice values of threads need Linux: ", err)
	}
	var nices []int
	for _, entry := range entries {
		stat, err := os.ReadFile(filepath.Join(tasks, entry.Name(), "stat"))
		if err != nil {
			continue // the thread has exited
		}
		// The name can contain spaces and brackets, so fields count from the last bracket. Nice is the 17th (proc(5)).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		nice, err := strconv.Atoi(fields[16])
		if err != nil {
			p.t.Fatal(err)
		}
		nices = append(nices, nice)
	}
	return nices
}

// A saturated model leaves another model its share of the cores: a single client of that one waits for a few images of the
// saturated model at a time, not for one of each of its clients.
func TestABusyModelDoesntStarveAnother(t *testing.T) {
	// Not in parallel: the shares of the two models are measured in a process that has the machine to itself.
	const clients, rounds = 128, 30
	folder := newModelFolder(t, map[string]string{"1/model.pt": "identity.pt"})
	s := startProcess(t, module("negate.pt"), folder, "--max-queue-size", "160")
	photo := photograph(t, "jpeg-large.jpg")
	want := expectVersion(t, s.put(photo), 1)
	busy := s.load(clients, photo, func(int) []byte { return want })
	before := busy.responses()
	for range rounds {
		expectVersion(t, s.putTo("/image/net", photo), 1)
	}
	if between := busy.responses() - before; between > rounds*clients/3 {
		t.Errorf("%d responses of the busy model during %d of the other, want at most %d", between, rounds, rounds*clients/3)
	}
	if busy.end()[1] < clients {
		t.Errorf("fewer than %d responses of the busy model, so it wasn't busy", clients)
	}
}
