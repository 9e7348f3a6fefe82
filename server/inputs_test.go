package main

import (
	"bytes"
	"context"
	"fmt"
	"image/color"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// taggedModel makes a model whose output shows its inputs: red is the image's, green the mask's times the gain, blue the
// strength.
func taggedModel(t testing.TB) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "tagged")
	goldens.ScriptOf(t, folder+"/1/model.pt", "x: Tensor, mask: Tensor, strength: Tensor, gain: float", `
    blue = torch.add(torch.zeros_like(mask), torch.reshape(strength, [-1, 1, 1, 1]))
    return torch.cat([torch.slice(x, 1, 0, 1), torch.mul(mask, gain), blue], 1)
`)
	if err := os.WriteFile(folder+"/model.yaml", []byte(taggedSettings), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

const taggedSettings = `size: 16x16
format: png
max-batch-size: 4
max-queue-size: 64
wait-policy: fixed
max-wait: 50ms
inputs:
  - image
  - mask: {channels: gray, resize-filter: nearest}
  - strength: {number: 0.2, min: 0, max: 1, shape: [N]}
  - gain: {number: 1.0}
`

// A part is one of a form: a file, or a text.
type part struct {
	name    string
	content []byte
	text    bool
}

// form returns a form and its Content-Type.
func form(t testing.TB, parts ...part) (io.Reader, string) {
	t.Helper()
	var body bytes.Buffer
	writer := multipart.NewWriter(&body)
	for _, each := range parts {
		var to io.Writer
		var err error
		if each.text {
			to, err = writer.CreateFormField(each.name)
		} else {
			to, err = writer.CreateFormFile(each.name, each.name+".png")
		}
		if err == nil {
			_, err = to.Write(each.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return &body, writer.FormDataContentType()
}

func grey(value uint8) color.NRGBA { return color.NRGBA{value, value, value, 255} }

func number(name, text string) part { return part{name, []byte(text), true} }

// Item i of a batch gets the parts of the request whose image it is, and plain numbers that differ share no batch.
func TestPartsStayWithTheirImage(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"in process": nil, "isolated": {"--isolate"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, append(flags, taggedModel(t))...)
			const requests = 48
			var group sync.WaitGroup
			sizes := make([]string, requests)
			for i := range requests {
				value := uint8(5 * i)
				gain := 1 + i%2
				parts := []part{
					{name: "image", content: solid(t, grey(value))}, {name: "mask", content: solid(t, grey(value/2))},
					number("strength", fmt.Sprint(float64(value)/255)), number("gain", fmt.Sprint(gain)),
				}
				if i%3 == 0 { // in any order
					slices.Reverse(parts)
				}
				body, kind := form(t, parts...)
				group.Go(func() {
					r, err := s.try(http.MethodPost, "/image", body, "Content-Type", kind)
					if err != nil || r.status != http.StatusOK {
						t.Errorf("request %d: status %d, %s, %v", i, r.status, r.body, err)
						return
					}
					got, err := colourOf(r.body)
					if want := (color.NRGBA{value, value / 2 * uint8(gain), value, 255}); err != nil || !near(got, want) {
						t.Errorf("request %d: got %v, %v, want %v", i, got, err, want)
					}
					sizes[i] = timing(r)["batch"]
				})
			}
			group.Wait()
			if slices.Max(sizes) < "2" {
				t.Errorf("no images shared a batch, so this proves nothing: %v", sizes)
			}
		})
	}
}

// A request with several parts that ends in the queue leaves with all of them: its place is free, and the others keep theirs.
func TestACancelledRequestTakesItsPartsAlong(t *testing.T) {
	t.Parallel()
	s := start(t, taggedModel(t), "--max-wait", "1h", "--max-batch-size", "3", "--max-queue-size", "2", "--request-timeout", "0")
	type result struct {
		value    uint8
		response response
		err      error
	}
	results := make(chan result, 5)
	cancels := map[uint8]context.CancelFunc{}
	send := func(values ...uint8) {
		for _, value := range values {
			ctx, cancel := context.WithCancel(t.Context())
			cancels[value] = cancel
			body, kind := form(t, part{name: "image", content: solid(t, grey(value))}, part{name: "mask", content: solid(t, grey(value/2))}, number("strength", fmt.Sprint(float64(value)/255)))
			go func() {
				r, err := s.tryWith(ctx, http.MethodPost, "/image", body, "Content-Type", kind, "X-Request-Id", fmt.Sprint(value))
				results <- result{value, r, err}
			}()
		}
	}
	// The queue has room for all but one, so the others are queued when that one is refused.
	awaitRefusal := func() {
		t.Helper()
		refused := <-results
		if refused.err != nil {
			t.Fatal(refused.err)
		}
		expectError(t, refused.response, 503, "I'm too busy")
		delete(cancels, refused.value)
	}
	send(40, 80, 120)
	awaitRefusal()
	for value, cancel := range cancels { // one of the two
		cancel()
		s.log.await(t, "request_id", fmt.Sprint(value), "status", 499.0)
		if ended := <-results; ended.value != value || ended.err == nil {
			t.Fatalf("got the result of %d, %v, want that of %d, cancelled", ended.value, ended.err, value)
		}
		delete(cancels, value)
		break
	}
	send(160, 200)
	awaitRefusal()
	// A drain runs what is queued.
	if err := s.stop(t.Context()); err != nil {
		t.Error(err)
	}
	for range 2 {
		r := <-results
		got, err := colourOf(r.response.body)
		if want := (color.NRGBA{r.value, r.value / 2, r.value, 255}); r.err != nil || err != nil || !near(got, want) || timing(r.response)["batch"] != "2" {
			t.Errorf("%d: got %v, %v, %v, %v, want %v in a batch of 2", r.value, got, r.err, err, timing(r.response), want)
		}
	}
}

func TestPartsOfARequest(t *testing.T) {
	t.Parallel()
	s := start(t, taggedModel(t), "--max-upload", "100000")
	image, mask := part{name: "image", content: solid(t, grey(100))}, part{name: "mask", content: solid(t, grey(50))}
	send := func(path string, parts ...part) response {
		t.Helper()
		body, kind := form(t, parts...)
		return s.do(http.MethodPost, path, body, "Content-Type", kind)
	}
	for name, c := range map[string]struct {
		r    response
		want color.NRGBA
	}{
		"defaults":    {send("/image", mask, image), color.NRGBA{100, 50, 51, 255}},
		"query":       {send("/image?strength=0.8&gain=2", image, mask), color.NRGBA{100, 100, 204, 255}},
		"form wins":   {send("/image?strength=0.8", image, mask, number("strength", " 1 ")), color.NRGBA{100, 50, 255, 255}},
		"other names": {send("/image", part{name: "file", content: image.content}, mask), color.NRGBA{100, 50, 51, 255}},
	} {
		got, err := colourOf(c.r.body)
		if err != nil || !near(got, c.want) {
			t.Errorf("%s: got %v (%s), want %v", name, got, c.r.body, c.want)
		}
	}
	expectError(t, send("/image", image), 400, "the part mask is missing: send image, mask, strength (optional), gain (optional)")
	expectError(t, s.put(image.content), 400, "the part mask is missing")
	expectError(t, send("/image", mask), 400, "the form has no part image")
	expectError(t, send("/image", image, mask, number("steps", "4")), 400, `unknown part "steps": send image, mask`)
	expectError(t, send("/image", image, mask, mask), 400, "the part mask is there twice")
	expectError(t, send("/image", image, mask, number("strength", "1.5")), 422, "invalid number: strength is 1.5 and must be at most 1")
	expectError(t, send("/image?strength=-1", image, mask), 422, "invalid number: strength is -1 and must be at least 0")
	expectError(t, send("/image", image, mask, number("strength", "strong")), 422, `invalid number: strength is "strong" and must be a number`)
	expectError(t, send("/image", image, part{name: "mask", content: []byte("moo")}), 415, "mask: unknown image format")
	expectError(t, send("/image", image, part{name: "mask", content: make([]byte, 100000)}), 413, "Too large")
}

// A mask without a size has that of the image, also if images keep theirs; a style image has its own.
func TestSizesOfParts(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "sizes")
	goldens.ScriptOf(t, folder+"/1/model.pt", "x: Tensor, mask: Tensor, style: Tensor", `
    scale = torch.div(torch.size(style, 3), 255.)
    return torch.add(torch.mul(torch.add(x, mask), 0.), scale)
`)
	settings := "size: keep\nformat: png\ninputs: [image, {mask: {channels: gray, threshold: 0.5, default: 255}}, {style: {size: 40x20, mean: [0.5], std: [0.5]}}]\n"
	if err := os.WriteFile(folder+"/model.yaml", []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, folder)
	photo := part{name: "image", content: photograph(t, "jpeg-odd.jpg")}
	style := part{name: "style", content: photograph(t, "jpeg-228.jpg")}
	for _, parts := range [][]part{{photo, style}, {photo, style, {name: "mask", content: solid(t, white)}}} {
		body, kind := form(t, parts...)
		r := s.do(http.MethodPost, "/image", body, "Content-Type", kind)
		got, err := colourOf(r.body)
		if err != nil || !near(got, grey(40)) {
			t.Errorf("got %v (%.200s), want %v", got, r.body, grey(40))
		}
	}
}

// bench sends a form for --part, and models check runs a model with further inputs.
func TestCommandsWithParts(t *testing.T) {
	t.Parallel()
	folder := taggedModel(t)
	s := start(t, folder)
	mask := filepath.Join(t.TempDir(), "mask.png")
	if err := os.WriteFile(mask, solid(t, white), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{
		{"bench", s.url + "/image", "--part", "mask=@" + mask, "--part", "strength=0.5", "--requests", "8", "--clients", "4", "--warm-up", "0s", "--quiet"},
		{"models", "check", folder},
	} {
		command := exec.CommandContext(t.Context(), os.Args[0], arguments...)
		command.Env = append(os.Environ(), beTheCommand+"=1")
		if output, err := command.CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", arguments, err, output)
		}
	}
}
