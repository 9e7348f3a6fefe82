package main

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

// Models of different reach: how far from a pixel its result looks.
const (
	smooth = "return torch.avg_pool2d(x, [3, 3], [1, 1], [1, 1])"
	// A dilated convolution that looks 15 pixels far, which is all that an overlap of 32 allows.
	dilated = `y = torch.div(torch.ones([3, 1, 3, 3]), 9.)
    return torch.conv2d(x, y, None, [1, 1], [15, 15], [15, 15], 3)`
	// Halves and doubles the sides, so that each pixel's result depends on its place in a grid of 4.
	grid   = "return torch.upsample_nearest2d(torch.avg_pool2d(torch.avg_pool2d(x, [3, 3], [1, 1], [1, 1]), [4, 4], [4, 4]), None, [4., 4.])"
	larger = "return torch.upsample_nearest2d(torch.avg_pool2d(x, [3, 3], [1, 1], [1, 1]), None, [2., 2.])"
)

// The result of tiles is that of the whole image, within a level, if the model's reach fits into the overlap.
func TestTilesHaveNoSeams(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, body, settings, kind string
		width, height              int
	}{
		{"smooth", smooth, "tile: 64\noverlap: 4", "", 150, 130},
		{"dilated", dilated, "tile: 128\noverlap: 32", "", 300, 140},
		{"on a grid", grid, "tile: 64\noverlap: 8\nmultiple-of: 4", "", 151, 70},
		{"larger", larger, "tile: 64\noverlap: 4\nmax-batch-size: 3", "", 150, 40},
		{"mask", "return torch.slice(torch.avg_pool2d(x, [3, 3], [1, 1], [1, 1]), 1, 0, 1)", "tile: 64\noverlap: 4", "mask", 65, 130},
		{"alpha", "return torch.slice(torch.avg_pool2d(x, [3, 3], [1, 1], [1, 1]), 1, 0, 1)", "tile: 64\noverlap: 4", "alpha", 65, 80},
		{"chroma", "return torch.mul(torch.sub(torch.slice(torch.avg_pool2d(x, [3, 3], [1, 1], [1, 1]), 1, 0, 2), 0.5), 100)", "tile: 64\noverlap: 4", "chroma", 80, 70},
		{"classes", "return torch.mul(torch.to(torch.gt(torch.select(x, 1, 0), 0.5), 4), 200)", "tile: 64\noverlap: 4", "classes", 100, 70},
	} {
		_, file := noise(t, test.width, test.height)
		common := "size: keep\nmax-queue-size: 64\n"
		if test.kind != "" {
			common += "output-kind: " + test.kind + "\n"
		}
		whole := start(t, sizedModel(t, test.body, common+onlyMultiple(test.settings)))
		tiled := start(t, sizedModel(t, test.body, common+test.settings))
		want, r := decodePNG(t, whole.put(file).body), tiled.put(file)
		if r.status != http.StatusOK {
			t.Errorf("%s: got %d %s", test.name, r.status, r.body)
			continue
		}
		got := decodePNG(t, r.body)
		if tiled.log.count("message", "forward", "width", float64(test.width)) > 0 || got.Bounds() != want.Bounds() {
			t.Errorf("%s: the response is %v, want %v, in tiles", test.name, got.Bounds(), want.Bounds())
			continue
		}
		largest, equal := goldens.Difference(bytesOf(got), bytesOf(want))
		if largest > 1 || equal < 0.95 {
			t.Errorf("%s: the result differs by up to %d levels from the whole image's, %.1f %% of values are equal", test.name, largest, 100*equal)
		}
	}
}

// onlyMultiple returns the settings without tiles.
func onlyMultiple(settings string) string {
	if at := strings.Index(settings, "multiple-of"); at >= 0 {
		return settings[at:]
	}
	return ""
}

// bytesOf returns the pixels of an image as RGBA.
func bytesOf(img image.Image) []byte {
	var pixels []byte
	size := img.Bounds().Size()
	for y := range size.Y {
		for x := range size.X {
			c := color.NRGBAModel.Convert(img.At(x, y)).(color.NRGBA)
			pixels = append(pixels, c.R, c.G, c.B, c.A)
		}
	}
	return pixels
}

// Tiles of several requests share batches, each request has one place in the queue, and each gets its own image.
func TestTilesOfRequestsShareBatches(t *testing.T) {
	t.Parallel()
	const requests = 4
	s := start(t, sizedModel(t, unchanged, "size: keep\ntile: 16\noverlap: 2\nmax-batch-size: 6\nmax-queue-size: 4\nmax-wait: 100ms\nwait-policy: fixed"))
	var responses []<-chan response
	var sent []*image.NRGBA
	for i := range requests {
		img, _ := noise(t, 100, 30+i)
		for at := range img.Pix {
			if at%4 == i%3 {
				img.Pix[at] ^= byte(i)
			}
		}
		sent = append(sent, img)
		responses = append(responses, s.later(encodePNG(t, img)))
	}
	for i, each := range responses {
		r := <-each
		if r.status != http.StatusOK {
			t.Errorf("request %d: got %d %s", i, r.status, r.body)
			continue
		}
		if largest, _ := goldens.Difference(bytesOf(decodePNG(t, r.body)), sent[i].Pix); largest > 0 {
			t.Errorf("request %d: the response isn't its image", i)
		}
	}
	if s.log.count("message", "forward", "batch", 6.) == 0 {
		t.Error("no batch was full")
	}
}

// Images that are smaller than a tile don't wait until the tiles of a large one are done.
func TestTilesTakeTurnsWithImages(t *testing.T) {
	t.Parallel()
	s := start(t, sizedModel(t, unchanged, "size: keep\ntile: 32\noverlap: 2"))
	_, file := noise(t, 900, 900) // over a thousand tiles
	warm := s.log.count("message", "forward")
	large := s.later(file)
	s.log.awaitCount(t, warm+3, "message", "forward")
	img, small := noise(t, 20, 10)
	for range 10 {
		r := s.put(small)
		if r.status != http.StatusOK {
			t.Fatalf("got %d %s, want 200", r.status, r.body)
		}
		if largest, _ := goldens.Difference(bytesOf(decodePNG(t, r.body)), img.Pix); largest > 0 {
			t.Error("the response isn't the image")
		}
	}
	select {
	case <-large:
		t.Error("the large image was done first")
	default:
	}
	if r := <-large; r.status != http.StatusOK {
		t.Errorf("got %d %s, want 200", r.status, r.body)
	}
}

// A request with tiles ends with its version, also if a new version comes or the server drains meanwhile.
func TestARequestWithTilesEndsWithItsVersion(t *testing.T) {
	t.Parallel()
	folder := sizedModel(t, unchanged, "size: keep\ntile: 32\noverlap: 2")
	s := start(t, folder)
	_, file := noise(t, 900, 900) // over a thousand tiles
	warm := s.log.count("message", "forward")
	first := s.later(file)
	s.log.awaitCount(t, warm+3, "message", "forward")
	goldens.ScriptAt(t, folder+"/2/model.pt", "\n    return torch.rsub(x, 1.)\n")
	s.reload()
	r := <-first
	if r.status != http.StatusOK || r.header.Get("X-Model-Version") != "1" {
		t.Errorf("got %d from version %s, want 200 from version 1", r.status, r.header.Get("X-Model-Version"))
	}
	ran := s.log.count("message", "forward")
	second := s.later(file)
	s.log.awaitCount(t, ran+3, "message", "forward")
	drained := s.drain()
	if r := <-second; r.status != http.StatusOK || r.header.Get("X-Model-Version") != "2" {
		t.Errorf("got %d from version %s, want 200 from version 2", r.status, r.header.Get("X-Model-Version"))
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// A client that leaves takes its tiles with it.
func TestTilesLeaveWithTheirClient(t *testing.T) {
	t.Parallel()
	s := start(t, sizedModel(t, unchanged, "size: keep\ntile: 32\noverlap: 2\nmax-queue-size: 1"))
	_, file := noise(t, 900, 900)
	warm := s.log.count("message", "forward")
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := s.tryWith(ctx, http.MethodPut, "/image", bytes.NewReader(file))
		gone <- err
	}()
	s.log.awaitCount(t, warm+3, "message", "forward")
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the client's own cancellation", err)
	}
	s.log.await(t, "message", "request", "status", 499.)
	_, small := noise(t, 20, 20)
	if r := s.put(small); r.status != http.StatusOK { // the queue's only place is free
		t.Errorf("got %d %s", r.status, r.body)
	}
}

// A tile that crashes the model is told from others, and the process is there again for the next request.
func TestATileThatCrashesTheModel(t *testing.T) {
	t.Parallel()
	folder := sizedModel(t, strings.TrimSpace(goldens.CrashesOnWhite), "size: keep\ntile: 16\noverlap: 2\nmax-batch-size: 4\nmax-wait: 0s")
	s := start(t, "--isolate", folder)
	img, good := noise(t, 60, 60)
	for y := range 16 { // one tile
		for x := range 16 {
			img.Set(24+x, 24+y, white)
		}
	}
	expectError(t, s.put(encodePNG(t, img)), http.StatusUnprocessableEntity, "the model crashes on this image")
	if r := s.put(good); r.status != http.StatusOK {
		t.Errorf("got %d %s", r.status, r.body)
	}
	if err := s.stop(t.Context()); err != nil { // which counts the arena's memory
		t.Error(err)
	}
}

// A model whose outputs can't be joined isn't served with tiles.
func TestTilesNeedAWholeScale(t *testing.T) {
	t.Parallel()
	expectFailure(t, "tiles need an output of the input's size or its multiple, but that of a tile of 64x64 is 32x32: remove tile from the settings",
		sizedModel(t, "return torch.avg_pool2d(x, [2, 2], [2, 2])", "size: keep\ntile: 64\noverlap: 4"))
}

// A rollout runs the other version on the same tiles, and compares results of the size that the request asked for.
func TestARolloutComparesTiles(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "identity.pt", "model.yaml": "format: png\nsize: keep\ntile: 32\noverlap: 4\n"})
	s := start(t, folder, "--shadow", "net=100%")
	s.putCandidate(t, folder, "negate.pt")
	_, file := noise(t, 90, 50)
	first := s.putTo("/image?size=45x25", file)
	r := s.awaitRollout(func(r *rollout.Report) bool { return r.Pairs == 1 })
	second := s.putTo("/image/net/versions/2?size=45x25", file)
	if first.status != http.StatusOK || second.status != http.StatusOK {
		t.Fatalf("got %d and %d", first.status, second.status)
	}
	if want := psnrOf(t, first.body, second.body); r.Failures != 0 || math.Abs(*r.PSNR-want) > 1e-9 {
		t.Errorf("PSNR %v, want %v; %+v", *r.PSNR, want, r)
	}
}

// The stages of a request with tiles are sums over its groups of tiles.
func TestStagesOfTiles(t *testing.T) {
	t.Parallel()
	s := start(t, sizedModel(t, unchanged, "size: keep\ntile: 32\noverlap: 2\nmax-batch-size: 4"))
	_, file := noise(t, 200, 100)
	r := s.put(file)
	line := s.log.await(t, "message", "request", "status", 200.)
	if timing(r)["batch"] != "4" || line["forward_ms"].(float64) <= 0 || line["queue_ms"].(float64) < 0 {
		t.Errorf("got the stages %s, and %v in the log", r.header.Get("Server-Timing"), line)
	}
}
