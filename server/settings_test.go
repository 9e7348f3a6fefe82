package main

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// flat is a PNG of 8x8 in one colour.
func flat(t *testing.T, c color.Color) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 8, 8))
	for i := range 64 {
		img.Set(i%8, i/8, c)
	}
	return encodePNG(t, img)
}

func encodePNG(t *testing.T, picture image.Image) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := png.Encode(&file, picture); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// The settings of model.yaml are what a model's pictures go by: seen on a colour that goes through a model and back.
func TestSettingsOfAModel(t *testing.T) {
	t.Parallel()
	colour := color.NRGBA{200, 100, 50, 255}
	gray := uint8((19595*200 + 38470*100 + 7471*50 + 32768) >> 16)
	for _, test := range []struct {
		name, module, settings string
		want                   color.NRGBA
	}{
		{"nothing said", "identity.pt", "", colour},
		{"the other order, there and back", "identity.pt", "channels: bgr", colour},
		{"one channel", "gray.pt", "channels: gray", color.NRGBA{gray, gray, gray, 255}},
		{"another range, there and back", "identity.pt", "input-range: [-1, 1]\noutput-range: [-1, 1]", colour},
		{"the range of the answer", "identity.pt", "output-range: [0, 2]", color.NRGBA{100, 50, 25, 255}},
		{"the range of the input", "identity.pt", "input-range: [1, 0]", color.NRGBA{55, 155, 205, 255}},
		{"mean and deviation", "identity.pt", "mean: [0.2, 0, 0]\nstd: [1, 1, 0.5]", color.NRGBA{149, 100, 100, 255}},
		{"mean and deviation in the tensor's order", "identity.pt", "channels: bgr\nmean: [0, 0, 0.2]\nstd: [0.5, 1, 1]", color.NRGBA{149, 100, 100, 255}},
		{"one mean for all", "identity.pt", "mean: [0.1]\nstd: [2]", color.NRGBA{87, 37, 12, 255}},
		{"a range in the file", "other_range.pt", "", color.NRGBA{0, 0, 0, 0}},
	} {
		folder := newModelFolder(t, map[string]string{"1/model.pt": test.module, "model.yaml": test.settings + "\nsize: 8x8\nformat: png\n"})
		if test.module == "other_range.pt" { // which negates values from -1 to 1: 1 - x
			test.want = color.NRGBA{255, 255, 255, 255}
			for i, v := range []uint8{200, 100, 50} {
				negated := min(1-(float64(v)/255*2-1), 1)
				*[]*uint8{&test.want.R, &test.want.G, &test.want.B}[i] = uint8((negated + 1) / 2 * 255)
			}
		}
		a := start(t, folder).put(flat(t, colour))
		if a.status != 200 || a.header.Get("Content-Type") != "image/png" {
			t.Errorf("%s: %d, %s", test.name, a.status, a.header.Get("Content-Type"))
			continue
		}
		got := color.NRGBAModel.Convert(decodePNG(t, a.body).At(3, 3)).(color.NRGBA)
		for i, pair := range [][2]uint8{{got.R, test.want.R}, {got.G, test.want.G}, {got.B, test.want.B}} {
			// Values are cut off, so a hair below a whole number is the number before it.
			if d := int(pair[0]) - int(pair[1]); d < -1 || d > 1 {
				t.Errorf("%s: channel %d is %d instead of %d", test.name, i, pair[0], pair[1])
			}
		}
	}
}

// With size: keep the sides are bounded and become multiples, before the model sees them.
func TestKeptSizes(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{
		"1/model.pt": "upscale2.pt", "model.yaml": "size: keep\nmultiple-of: 8\nmax-side: 64\nformat: png\nwarm-up: [64x48]\ngrayscale: rgb\nexif: ignore\n",
	})
	s := start(t, folder)
	for name, want := range map[string]image.Point{
		"jpeg-420.jpg":  {128, 80}, // 300x200, which becomes 64x43 and 64x40
		"jpeg-gray.jpg": {},
		"exif-6.jpg":    {},
	} {
		stored, _, err := image.DecodeConfig(bytes.NewReader(photograph(t, name)))
		if err != nil {
			t.Fatal(err)
		}
		a := s.put(photograph(t, name))
		if a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
			continue
		}
		size := decodePNG(t, a.body).Bounds().Size()
		if want != (image.Point{}) && size != want {
			t.Errorf("%s: %v instead of %v", name, size, want)
		}
		// As wide or as high as it is stored, since its turn is ignored.
		if size.X%16 != 0 || size.Y%16 != 0 || max(size.X, size.Y) > 128 || (stored.Width > stored.Height) != (size.X > size.Y) {
			t.Errorf("%s: %v of a picture of %dx%d", name, size, stored.Width, stored.Height)
		}
	}
	// What a request asks for goes before what the model says.
	expectImage(t, s.do("PUT", "/image?format=jpeg", bytes.NewReader(photograph(t, "jpeg-420.jpg"))))
	expectImage(t, s.put(photograph(t, "jpeg-420.jpg"), "Accept", "image/jpeg"))
	if a := s.put(photograph(t, "jpeg-420.jpg"), "Accept", "*/*"); a.header.Get("Content-Type") != "image/png" {
		t.Errorf("any format: %s", a.header.Get("Content-Type"))
	}
}

// A file can bring its settings along; those beside it go before them, and flags before those.
func TestWhichSettingCounts(t *testing.T) {
	t.Parallel()
	side := func(arguments ...string) int {
		t.Helper()
		a := start(t, arguments...).put(photograph(t, "jpeg-420.jpg"), "Accept", "image/png")
		return decodePNG(t, a.body).Bounds().Dx()
	}
	inside := module("with_settings.pt") // size: 40x40
	folder := newModelFolder(t, map[string]string{"1/model.pt": "with_settings.pt", "model.yaml": "size: 50x50"})
	for _, test := range []struct {
		want      int
		arguments []string
	}{{40, []string{inside}}, {50, []string{folder}}, {60, []string{folder, "--size", "60x60"}}, {24, []string{module("sized.pt")}}} {
		if got := side(test.arguments...); got != test.want {
			t.Errorf("%v: %d instead of %d", test.arguments, got, test.want)
		}
	}
}

// A file that isn't the one that the settings are for isn't served.
func TestDigest(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	s := start(t, folder)
	putSettings(t, folder, "digest: sha256:"+strings.Repeat("00", 32))
	admin := s.admin
	a := admin.post("/v2/repository/models/net/load", "")
	expectError(t, a, 400, "the file's digest is sha256:")
	digest := regexp.MustCompile("sha256:[0-9a-f]{64}").FindString(string(a.body))
	putSettings(t, folder, "digest: "+digest)
	if a := admin.post("/v2/repository/models/net/load", ""); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// On the CPU the system shares the cores between models: the threads of the lighter one have a nice value.
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
	// 1.25 to the 6th is 3.8. The runner's thread has it, and no other: the server's own threads have none.
	if slices.Max(nices) != 6 || slices.Min(nices) != 0 {
		t.Errorf("the threads have the nice values %v", nices)
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
		p.t.Skip("only Linux has nice values of threads: ", err)
	}
	var nices []int
	for _, entry := range entries {
		stat, err := os.ReadFile(filepath.Join(tasks, entry.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		// After the name, which may hold anything but ends with the last bracket, nice is the 17th field (proc(5)).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		nice, err := strconv.Atoi(fields[16])
		if err != nil {
			p.t.Fatal(err)
		}
		nices = append(nices, nice)
	}
	return nices
}

// A model with more clients than it can serve leaves another one its share: a lone client of that one waits for a few of
// the busy one's pictures, and not for one of each of its clients.
func TestABusyModelDoesntStarveAnother(t *testing.T) {
	t.Parallel()
	const clients, rounds = 48, 30
	folder := newModelFolder(t, map[string]string{"1/model.pt": "identity.pt"})
	s := start(t, module("negate.pt"), folder, "--max-queue-size", "64")
	photo := photograph(t, "jpeg-large.jpg")
	want := expectVersion(t, s.put(photo), 1)
	busy := s.load(clients, photo, func(int) []byte { return want })
	before := busy.answers()
	for range rounds {
		expectVersion(t, s.putTo("/image/net", photo), 1)
	}
	if between := busy.answers() - before; between > rounds*clients/3 {
		t.Errorf("%d answers of the busy model between %d of the other", between, rounds)
	}
	if busy.end()[1] < clients {
		t.Error("the busy model wasn't busy")
	}
}
