package main

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/image/webp"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// solid is a PNG of one colour.
func solid(t testing.TB, c color.NRGBA) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 8, 8))
	for at := 0; at < len(img.Pix); at += 4 {
		copy(img.Pix[at:], []byte{c.R, c.G, c.B, c.A})
	}
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// A demoJPEG is what a JPEG's header says of how it was made.
type demoJPEG struct {
	tables [][]byte // the quantisation tables, in order
	frame  []byte   // size, components and their subsampling
}

func readJPEG(t testing.TB, data []byte) demoJPEG {
	t.Helper()
	var d demoJPEG
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		length := 2 + int(data[at+2])<<8 + int(data[at+3])
		segment := data[at:min(at+length, len(data))]
		switch data[at+1] {
		case 0xdb:
			d.tables = append(d.tables, segment)
		case 0xc0, 0xc2:
			d.frame = segment
		case 0xda:
			return d
		}
		at += length
	}
	t.Fatal("not a JPEG")
	return d
}

func decodeJPEG(t testing.TB, data []byte) []byte {
	t.Helper()
	header, err := torch.ReadJPEGHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	pixels := make([]byte, header.Width*header.Height*3)
	if err := torch.DecodeJPEG(data, torch.DecodeOptions{Orientation: torch.Upright}, header.Width, header.Height, pixels); err != nil {
		t.Fatal(err)
	}
	return pixels
}

// The answers are the demo's: same size, same tables, same subsampling and, for a model whose arithmetic is exact,
// the same bytes; for the bundled one at least 55 dB, since its last bits depend on the processor.
func TestAnswersAreTheDemos(t *testing.T) {
	t.Parallel()
	negate, bundled := start(t, "--compat", "sanic", "--max-wait", "0s", module("negate.pt")), start(t, "--compat", "sanic", "--max-wait", "0s")
	for _, p := range goldens.Load(t).Images {
		for _, c := range []struct {
			server *embedded
			golden string
			exact  bool
		}{{negate, p.Negate, true}, {bundled, p.Bundled, false}} {
			if c.golden == "" {
				continue
			}
			t.Run(c.golden, func(t *testing.T) {
				a := c.server.put(goldens.Read(t, p.File))
				expectImage(t, a)
				want := goldens.Read(t, "goldens/"+c.golden)
				got, demo := readJPEG(t, a.body), readJPEG(t, want)
				if !slices.EqualFunc(got.tables, demo.tables, bytes.Equal) || !bytes.Equal(got.frame, demo.frame) {
					t.Error("another size, other tables or another subsampling than the demo's")
				}
				psnr := goldens.PSNR(decodeJPEG(t, a.body), decodeJPEG(t, want))
				t.Logf("%.1f dB, same bytes: %v", psnr, bytes.Equal(a.body, want))
				if c.exact && !bytes.Equal(a.body, want) || !c.exact && !(psnr >= 55) {
					t.Errorf("%.1f dB from the demo's answer", psnr)
				}
			})
		}
	}
}

// Batches of five different pictures, a thousand of them: each picture comes back to its own request.
func TestEachRequestGetsItsOwnImage(t *testing.T) {
	t.Parallel()
	// With the fixed policy nothing is launched before all five clients' pictures are there.
	s := start(t, "--max-batch-size", "5", "--max-queue-size", "5", "--wait-policy", "fixed", "--max-wait", "1m", "--size", "8x8", module("negate.pt"))
	const rounds = 1000
	var wg sync.WaitGroup
	var mu sync.Mutex
	batches := map[string]int{}
	for client := range 5 {
		wg.Go(func() {
			for round := range rounds {
				own := color.NRGBA{byte(51 * client), byte(round), byte(round >> 8 * 85), 255}
				a, err := s.try(http.MethodPut, "/image", bytes.NewReader(solid(t, own)), "Accept", "image/png")
				if err != nil || a.status != http.StatusOK {
					t.Errorf("client %d, round %d: %d %s, %v", client, round, a.status, a.body, err)
					return
				}
				img, err := png.Decode(bytes.NewReader(a.body))
				if err != nil {
					t.Error(err)
					return
				}
				got := color.NRGBAModel.Convert(img.At(3, 3)).(color.NRGBA)
				for _, pair := range [][2]byte{{own.R, got.R}, {own.G, got.G}, {own.B, got.B}} {
					// 1-x in float32, cut off, as in the demo.
					if want := byte((1 - float32(pair[0])/255) * 255); pair[1] != want {
						t.Errorf("client %d, round %d: sent %v, got %v", client, round, own, got)
						return
					}
				}
				mu.Lock()
				batches[timing(a)["batch"]]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if batches["5"] != 5*rounds {
		t.Errorf("sizes of the batches that requests were in: %v", batches)
	}
}

// timing reads a Server-Timing header: durations in milliseconds, and the batch's size.
func timing(a answer) map[string]string {
	stages := map[string]string{}
	for _, entry := range regexp.MustCompile(`(\w+);(?:dur|desc)="?([0-9.]+)"?`).FindAllStringSubmatch(a.header.Get("Server-Timing"), -1) {
		stages[entry[1]] = entry[2]
	}
	return stages
}

func TestServerTimingNamesEachStage(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	a := s.put(photograph(t, "jpeg-large.jpg"), "X-Request-Id", "timed")
	line := s.log.await(t, "request_id", "timed", "status", nil)
	stages := timing(a)
	for _, name := range []string{"receive", "decode", "queue", "forward", "encode"} {
		took, err := strconv.ParseFloat(stages[name], 64)
		logged, _ := line[name+"_ms"].(float64)
		if err != nil || took <= 0 || math.Abs(took-logged) > 0.001 {
			t.Errorf("%s took %q in the header and %v in the log", name, stages[name], line[name+"_ms"])
		}
	}
	if stages["batch"] != "1" || line["batch"] != 1.0 {
		t.Errorf("batch is %q in the header and %v in the log", stages["batch"], line["batch"])
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	a := s.put(photograph(t, "jpeg-small.jpg"), "X-Request-Id", "my-own-id")
	if got := a.header.Get("X-Request-Id"); got != "my-own-id" {
		t.Errorf("the client's id came back as %q", got)
	}
	line := s.log.await(t, "request_id", "my-own-id", "status", nil)
	if line["status"] != 200.0 || line["method"] != "PUT" || line["path"] != "/image" || line["bytes_in"] != 3496.0 || line["bytes_out"] != float64(len(a.body)) {
		t.Errorf("logged as %v", line)
	}
	first, second := s.put(nil), s.put(nil, "X-Request-Id", strings.Repeat("x", 200))
	made, replaced := first.header.Get("X-Request-Id"), second.header.Get("X-Request-Id")
	if len(made) < 16 || len(replaced) > 128 || made == replaced {
		t.Errorf("made the ids %q and %q", made, replaced)
	}
	s.log.await(t, "request_id", made, "status", nil)
}

// All the ways to send a picture that the README names.
func TestWaysToSend(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	picture := photograph(t, "jpeg-228.jpg")
	plain := s.put(picture)
	expectImage(t, plain)

	var form bytes.Buffer
	writer := multipart.NewWriter(&form)
	if err := writer.WriteField("comment", "not the file"); err != nil {
		t.Fatal(err)
	}
	part, err := writer.CreateFormFile("file", "photo.jpg")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(picture); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]answer{
		"POST":         s.do(http.MethodPost, "/image", bytes.NewReader(picture)),
		"chunked":      s.do(http.MethodPut, "/image", io.MultiReader(bytes.NewReader(picture))),
		"100-continue": s.put(picture, "Expect", "100-continue"),
		"other type":   s.put(picture, "Content-Type", "application/x-www-form-urlencoded"),
		"form":         s.do(http.MethodPost, "/image", &form, "Content-Type", writer.FormDataContentType()),
		"padded":       s.put(append(slices.Clone(picture), make([]byte, 1<<22-len(picture))...)), // just the limit
	} {
		if !bytes.Equal(a.body, plain.body) || a.status != http.StatusOK {
			t.Errorf("%s: answered %d and not the same picture", name, a.status)
		}
	}
	expectError(t, s.do(http.MethodPost, "/image", strings.NewReader("--x--\r\n"), "Content-Type", "multipart/form-data; boundary=x"), 400, "the form has no file")
	expectError(t, s.do(http.MethodPost, "/image", strings.NewReader("--x\r\nbroken"), "Content-Type", "multipart/form-data; boundary=x"), 400, "cannot read the request body")
}

func TestFormatsOfAnswers(t *testing.T) {
	t.Parallel()
	s := start(t, module("upscale2.pt"), "--size", "10x6")
	picture := photograph(t, "png-rgb.png")
	decoders := map[string]func(io.Reader) (image.Image, error){"image/jpeg": jpeg.Decode, "image/png": png.Decode, "image/webp": webp.Decode}
	for _, test := range []struct{ query, accept, want string }{
		{"", "", "image/jpeg"},
		{"?format=png", "", "image/png"},
		{"?format=WebP", "image/png", "image/webp"},
		{"?format=jpg", "", "image/jpeg"},
		{"", "image/png", "image/png"},
		{"", "*/*", "image/jpeg"},
		{"", "image/*;q=0.5, image/webp", "image/webp"},
		{"", "text/html, image/png;q=0.9, image/jpeg;q=0.3", "image/png"},
		{"", "image/jpeg;q=0, image/*", "image/png"},
		{"", "text/html", "image/jpeg"},
		{"", "nonsense;;;", "image/jpeg"},
	} {
		a := s.do(http.MethodPut, "/image"+test.query, bytes.NewReader(picture), "Accept", test.accept)
		if got := a.header.Get("Content-Type"); a.status != 200 || got != test.want {
			t.Errorf("%q, Accept %q: %d, %s instead of %s", test.query, test.accept, a.status, got, test.want)
			continue
		}
		img, err := decoders[test.want](bytes.NewReader(a.body))
		if err != nil || img.Bounds().Dx() != 20 || img.Bounds().Dy() != 12 {
			t.Errorf("%q, Accept %q: %v, %v", test.query, test.accept, img.Bounds(), err)
		}
	}
	expectError(t, s.do(http.MethodPut, "/image?format=gif", bytes.NewReader(picture)), 400, "jpeg, png or webp")
}

// A model's file says which size its pictures have; the flag wins.
func TestSizeOfTheModelsFile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		arguments []string
		want      image.Point
	}{
		{[]string{module("sized.pt")}, image.Pt(24, 16)},
		{[]string{module("any_size.pt")}, image.Pt(300, 200)},
		{[]string{module("sized.pt"), "--size", "12x8"}, image.Pt(12, 8)},
		{[]string{module("any_size.pt"), "--size", "12x8"}, image.Pt(12, 8)},
		{[]string{module("sized.pt"), "--size", "keep"}, image.Pt(300, 200)},
		{[]string{module("negate.pt")}, image.Pt(228, 228)},
	} {
		img, err := jpeg.Decode(bytes.NewReader(start(t, test.arguments...).put(photograph(t, "jpeg-420.jpg")).body))
		if err != nil || img.Bounds().Size() != test.want {
			t.Errorf("%v: %v, %v", test.arguments, img.Bounds(), err)
		}
	}
}

func TestKeepSize(t *testing.T) {
	t.Parallel()
	s := start(t, "--size", "keep", "--max-batch-size", "4", module("negate.pt"))
	for name, want := range map[string]image.Point{"jpeg-420.jpg": {300, 200}, "jpeg-portrait.jpg": {240, 360}, "exif-6.jpg": {120, 80}} {
		img, err := jpeg.Decode(bytes.NewReader(s.put(photograph(t, name)).body))
		if err != nil || img.Bounds().Size() != want {
			t.Errorf("%s: %v, %v", name, img.Bounds(), err)
		}
	}
	grey := start(t, module("gray.pt"))
	img, err := jpeg.Decode(bytes.NewReader(grey.put(photograph(t, "jpeg-420.jpg")).body))
	if _, ok := img.(*image.Gray); !ok || err != nil {
		t.Errorf("a model with one channel out answers with %T, %v", img, err)
	}
}
