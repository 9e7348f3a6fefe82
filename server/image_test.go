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

// solid returns a PNG of 8x8 in one colour.
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

// A jpegHeader has the parts of a JPEG's header that depend on the encoder's settings.
type jpegHeader struct {
	tables [][]byte // the quantisation tables, in order
	frame  []byte   // size, components and their subsampling
}

func readJPEGHeader(t testing.TB, data []byte) jpegHeader {
	t.Helper()
	var h jpegHeader
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		length := 2 + int(data[at+2])<<8 + int(data[at+3])
		segment := data[at:min(at+length, len(data))]
		switch data[at+1] {
		case 0xdb:
			h.tables = append(h.tables, segment)
		case 0xc0, 0xc2:
			h.frame = segment
		case 0xda:
			return h
		}
		at += length
	}
	t.Fatal("not a JPEG")
	return h
}

func decodeJPEG(t testing.TB, data []byte) []byte {
	t.Helper()
	header, err := torch.ReadJPEGHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	pixels := make([]byte, header.Width*header.Height*3)
	if err := torch.DecodeJPEG(t.Context(), data, torch.DecodeOptions{Orientation: torch.Upright}, header.Width, header.Height, pixels); err != nil {
		t.Fatal(err)
	}
	return pixels
}

// Responses have the size, quantisation tables and subsampling of the demo's responses. For a model whose arithmetic is exact
// they have the same bytes. For the bundled model the PSNR is at least 55 dB, since its last bits depend on the processor.
func TestResponsesAreTheDemos(t *testing.T) {
	t.Parallel()
	negate, bundled := start(t, "--compat", "sanic", "--max-wait", "0s", module("negate.pt")), start(t, "--compat", "sanic", "--max-wait", "0s")
	for _, g := range goldens.Load(t).Images {
		for _, c := range []struct {
			server *embedded
			golden string
			exact  bool
		}{{negate, g.Negate, true}, {bundled, g.Bundled, false}} {
			if c.golden == "" {
				continue
			}
			t.Run(c.golden, func(t *testing.T) {
				r := c.server.put(goldens.Read(t, g.File))
				expectImage(t, r)
				want := goldens.Read(t, "goldens/"+c.golden)
				got, demo := readJPEGHeader(t, r.body), readJPEGHeader(t, want)
				if !slices.EqualFunc(got.tables, demo.tables, bytes.Equal) || !bytes.Equal(got.frame, demo.frame) {
					t.Error("the size, quantisation tables or subsampling differ from the demo's")
				}
				psnr := goldens.PSNR(decodeJPEG(t, r.body), decodeJPEG(t, want))
				t.Logf("%.1f dB, same bytes: %v", psnr, bytes.Equal(r.body, want))
				if c.exact && !bytes.Equal(r.body, want) || !c.exact && !(psnr >= 55) {
					t.Errorf("PSNR with the demo's response = %.1f dB, want at least 55, or the same bytes if exact (%v)", psnr, c.exact)
				}
			})
		}
	}
}

// In a thousand batches of five different images, each image returns to its own request.
func TestEachRequestGetsItsOwnImage(t *testing.T) {
	t.Parallel()
	// With the fixed policy a batch starts when it has the images of all five clients.
	s := start(t, "--max-batch-size", "5", "--max-queue-size", "5", "--wait-policy", "fixed", "--max-wait", "1m", "--size", "8x8", module("negate.pt"))
	const rounds = 1000
	var wg sync.WaitGroup
	var mu sync.Mutex
	batches := map[string]int{}
	for client := range 5 {
		wg.Go(func() {
			for round := range rounds {
				own := color.NRGBA{byte(51 * client), byte(round), byte(round >> 8 * 85), 255}
				r, err := s.try(http.MethodPut, "/image", bytes.NewReader(solid(t, own)), "Accept", "image/png")
				if err != nil || r.status != http.StatusOK {
					t.Errorf("client %d, round %d: got %d %s, %v, want 200", client, round, r.status, r.body, err)
					return
				}
				img, err := png.Decode(bytes.NewReader(r.body))
				if err != nil {
					t.Error(err)
					return
				}
				got := color.NRGBAModel.Convert(img.At(3, 3)).(color.NRGBA)
				for _, pair := range [][2]byte{{own.R, got.R}, {own.G, got.G}, {own.B, got.B}} {
					// 1-x in float32, truncated, as in the demo.
					if want := byte((1 - float32(pair[0])/255) * 255); pair[1] != want {
						t.Errorf("client %d, round %d: got %v, want the negative of %v", client, round, got, own)
						return
					}
				}
				mu.Lock()
				batches[timing(r)["batch"]]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if batches["5"] != 5*rounds {
		t.Errorf("batch sizes by response = %v, want %d of size 5", batches, 5*rounds)
	}
}

// timing returns the entries of a Server-Timing header: durations in milliseconds, and the batch size.
func timing(r response) map[string]string {
	stages := map[string]string{}
	for _, entry := range regexp.MustCompile(`(\w+);(?:dur|desc)="?([0-9.]+)"?`).FindAllStringSubmatch(r.header.Get("Server-Timing"), -1) {
		stages[entry[1]] = entry[2]
	}
	return stages
}

func TestServerTimingNamesEachStage(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	r := s.put(photograph(t, "jpeg-large.jpg"), "X-Request-Id", "timed")
	line := s.log.await(t, "request_id", "timed", "status", nil)
	stages := timing(r)
	for _, name := range []string{"receive", "decode", "queue", "forward", "encode"} {
		took, err := strconv.ParseFloat(stages[name], 64)
		logged, _ := line[name+"_ms"].(float64)
		if err != nil || took <= 0 || math.Abs(took-logged) > 0.001 {
			t.Errorf("%s: %q in the header, %v in the log, want the same positive duration", name, stages[name], line[name+"_ms"])
		}
	}
	if stages["batch"] != "1" || line["batch"] != 1.0 {
		t.Errorf("batch: %q in the header, %v in the log, want 1", stages["batch"], line["batch"])
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	r := s.put(photograph(t, "jpeg-small.jpg"), "X-Request-Id", "my-own-id")
	if got := r.header.Get("X-Request-Id"); got != "my-own-id" {
		t.Errorf("X-Request-Id = %q, want the client's my-own-id", got)
	}
	line := s.log.await(t, "request_id", "my-own-id", "status", nil)
	if line["status"] != 200.0 || line["method"] != "PUT" || line["path"] != "/image" || line["bytes_in"] != 3496.0 || line["bytes_out"] != float64(len(r.body)) {
		t.Errorf("logged %v", line)
	}
	first, second := s.put(nil), s.put(nil, "X-Request-Id", strings.Repeat("x", 200))
	generated, replaced := first.header.Get("X-Request-Id"), second.header.Get("X-Request-Id")
	if len(generated) < 16 || len(replaced) > 128 || generated == replaced {
		t.Errorf("generated the ids %q and %q, want two different ones of 16 to 128 characters", generated, replaced)
	}
	s.log.await(t, "request_id", generated, "status", nil)
}

// These are all the forms of a request in docs/http-api.md.
func TestFormsOfRequests(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	photo := photograph(t, "jpeg-228.jpg")
	plain := s.put(photo)
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
	if _, err := part.Write(photo); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]response{
		"POST":         s.do(http.MethodPost, "/image", bytes.NewReader(photo)),
		"chunked":      s.do(http.MethodPut, "/image", io.MultiReader(bytes.NewReader(photo))),
		"100-continue": s.put(photo, "Expect", "100-continue"),
		"other type":   s.put(photo, "Content-Type", "application/x-www-form-urlencoded"),
		"form":         s.do(http.MethodPost, "/image", &form, "Content-Type", writer.FormDataContentType()),
		"padded":       s.put(append(slices.Clone(photo), make([]byte, 1<<22-len(photo))...)), // exactly --max-upload
	} {
		if !bytes.Equal(r.body, plain.body) || r.status != http.StatusOK {
			t.Errorf("%s: status = %d, want 200 and the same image as with PUT", name, r.status)
		}
	}
	expectError(t, s.do(http.MethodPost, "/image", strings.NewReader("--x--\r\n"), "Content-Type", "multipart/form-data; boundary=x"), 400, "the form has no file")
	expectError(t, s.do(http.MethodPost, "/image", strings.NewReader("--x\r\nbroken"), "Content-Type", "multipart/form-data; boundary=x"), 400, "cannot read the request body")
}

func TestFormatsOfResponses(t *testing.T) {
	t.Parallel()
	s := start(t, module("upscale2.pt"), "--size", "10x6")
	photo := photograph(t, "png-rgb.png")
	decoders := map[string]func(io.Reader) (image.Image, error){"image/jpeg": jpeg.Decode, "image/png": png.Decode, "image/webp": webp.Decode, "image/avif": readAVIF}
	for _, test := range []struct{ query, accept, want string }{
		{"", "", "image/jpeg"},
		{"?format=png", "", "image/png"},
		{"?format=WebP", "image/png", "image/webp"},
		{"?format=avif", "", "image/avif"},
		{"?format=jpg", "", "image/jpeg"},
		{"", "image/png", "image/png"},
		{"", "*/*", "image/jpeg"},
		{"", "image/avif, image/jpeg;q=0.9", "image/avif"},
		{"", "image/avif,image/webp,image/apng,*/*;q=0.8", "image/jpeg"}, // a browser
		{"", "image/webp, image/jpeg;q=0.5, */*;q=0.1", "image/webp"},
		{"", "text/html, image/png;q=0.9, image/jpeg;q=0.3", "image/png"},
		{"", "image/jpeg;q=0, image/*", "image/png"},
		{"", "text/html", "image/jpeg"},
		{"", "nonsense;;;", "image/jpeg"},
	} {
		r := s.do(http.MethodPut, "/image"+test.query, bytes.NewReader(photo), "Accept", test.accept)
		if got := r.header.Get("Content-Type"); r.status != 200 || got != test.want {
			t.Errorf("%q, Accept %q: got %d, %s, want 200, %s", test.query, test.accept, r.status, got, test.want)
			continue
		}
		img, err := decoders[test.want](bytes.NewReader(r.body))
		if err != nil || img.Bounds().Dx() != 20 || img.Bounds().Dy() != 12 {
			t.Errorf("%q, Accept %q: got %v, %v, want 20x12", test.query, test.accept, img.Bounds(), err)
		}
	}
	expectError(t, s.do(http.MethodPut, "/image?format=gif", bytes.NewReader(photo)), 400, "jpeg, png, webp or avif")
}

// The size in a model's file applies, unless a flag overrides it.
func TestSizeInTheModelsFile(t *testing.T) {
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
			t.Errorf("%v: got %v, %v, want %v", test.arguments, img.Bounds(), err, test.want)
		}
	}
}

func TestKeepSize(t *testing.T) {
	t.Parallel()
	s := start(t, "--size", "keep", "--max-batch-size", "4", module("negate.pt"))
	for name, want := range map[string]image.Point{"jpeg-420.jpg": {300, 200}, "jpeg-portrait.jpg": {240, 360}, "exif-6.jpg": {120, 80}} {
		img, err := jpeg.Decode(bytes.NewReader(s.put(photograph(t, name)).body))
		if err != nil || img.Bounds().Size() != want {
			t.Errorf("%s: got %v, %v, want %v", name, img.Bounds(), err, want)
		}
	}
	grey := start(t, module("gray.pt"))
	img, err := jpeg.Decode(bytes.NewReader(grey.put(photograph(t, "jpeg-420.jpg")).body))
	if _, ok := img.(*image.Gray); !ok || err != nil {
		t.Errorf("a model with one output channel: got %T, %v, want *image.Gray", img, err)
	}
}
