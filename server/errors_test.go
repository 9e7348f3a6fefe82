package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/torch"
)

// A bad request, the status of its answer, the status in the demo's manner, and a part of its text.
type badRequest struct {
	name          string
	body          io.Reader
	status, sanic int
	text          string
}

func badRequests(t testing.TB) []badRequest {
	photo := photograph(t, "jpeg-420.jpg")
	tooLarge := make([]byte, 1<<22+1)
	all := []badRequest{
		{"empty", bytes.NewReader(nil), 415, 500, "the body is empty"},
		{"empty and chunked", io.MultiReader(), 415, 500, "the body is empty"},
		{"text", strings.NewReader("moo"), 415, 500, "JPEG, PNG, WebP, GIF, BMP or TIFF"},
		{"4 MiB + 1", bytes.NewReader(tooLarge), 413, 500, "Too large"},
		{"4 MiB + 1, chunked", io.MultiReader(bytes.NewReader(tooLarge)), 413, 500, "Too large"},
		{"grey JPEG", bytes.NewReader(photograph(t, "jpeg-gray.jpg")), 422, 500, "need rgb image"},
		{"grey PNG with alpha", bytes.NewReader(photograph(t, "png-gray-alpha.png")), 422, 500, "need rgb image"},
		{"broken PNG", bytes.NewReader(photograph(t, "png-rgb.png")[:500]), 422, 500, "broken PNG"},
		{"PNG bomb", bytes.NewReader(bomb(t)), 413, 500, "too many pixels: 20000x5000"},
	}
	for percent := range 100 {
		cut := photo[:len(photo)*percent/100]
		if len(cut) > 2 {
			all = append(all, badRequest{fmt.Sprintf("JPEG at %d %%", percent), bytes.NewReader(cut), 422, 500, "broken JPEG"})
		}
	}
	return all
}

// bomb is a picture of 100 million pixels in a few kilobytes.
func bomb(t testing.TB) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := png.Encode(&file, image.NewPaletted(image.Rect(0, 0, 20000, 5000), color.Palette{color.Black, color.White})); err != nil {
		t.Fatal(err)
	}
	if file.Len() > 100<<10 {
		t.Fatalf("the bomb has %d bytes", file.Len())
	}
	return file.Bytes()
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	ordinary, sanic := start(t, module("negate.pt")), start(t, "--compat", "sanic", "--max-wait", "0s", module("negate.pt"))
	good := photograph(t, "jpeg-small.jpg")
	for _, s := range []*embedded{ordinary, sanic} {
		for _, bad := range badRequests(t) {
			status := bad.status
			if s == sanic {
				status = bad.sanic
			}
			beside := s.later(good)
			a := s.do(http.MethodPut, "/image", bad.body)
			t.Run(bad.name, func(t *testing.T) { expectError(t, a, status, bad.text) })
			expectImage(t, <-beside)
		}
	}
	// The demo knows neither of these, so they are errors only in its manner.
	palette := photograph(t, "png-palette.png")
	expectImage(t, ordinary.put(palette))
	expectError(t, sanic.put(palette), 500, "need rgb image")
}

func TestNotTheImagePath(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	expectError(t, s.do(http.MethodGet, "/", nil), 404, "/image")
	expectError(t, s.do(http.MethodPut, "/images", nil), 404, "/image")
	a := s.do(http.MethodGet, "/image", nil)
	expectError(t, a, 405, "PUT or POST")
	if got := a.header.Get("Allow"); got != "PUT, POST" {
		t.Errorf("Allow: %s", got)
	}
}

func TestExtremeImages(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	for _, size := range [][2]int{{1, 1}, {65500, 1}, {1, 65500}} {
		jpeg := make([]byte, torch.JPEGBound(size[0], size[1], 3))
		n, err := torch.EncodeJPEG(make([]byte, size[0]*size[1]*3), size[0], size[1], 3, 75, jpeg)
		if err != nil {
			t.Fatal(err)
		}
		expectImage(t, s.put(jpeg[:n]))
	}
}

// raw sends bytes as they are and returns the answer's head, of which the status line is the first.
func raw(t *testing.T, connection net.Conn, request string) (status string, rest *bufio.Reader) {
	t.Helper()
	if _, err := io.WriteString(connection, request); err != nil {
		t.Fatal(err)
	}
	rest = bufio.NewReader(connection)
	status, err := rest.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(status), rest
}

// The body of a request that is too large isn't asked for: the answer comes in place of "100 Continue".
func TestTooLargeIsRefusedUnread(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	for _, expect := range []string{"Expect: 100-continue\r\n", ""} {
		status, rest := raw(t, s.dial(), "PUT /image HTTP/1.1\r\nHost: herd\r\nContent-Length: 4194305\r\n"+expect+"\r\n")
		response, err := io.ReadAll(rest) // to the end: the server closes
		if err != nil || status != "HTTP/1.1 413 Request Entity Too Large" || !strings.HasSuffix(string(response), "Too large") {
			t.Errorf("%q: %s\n%s, %v", expect, status, response, err)
		}
	}
}

func TestWrongContentLength(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")

	// Announces more than it sends, and ends its side of the connection.
	connection := s.dial()
	if _, err := fmt.Fprintf(connection, "PUT /image HTTP/1.1\r\nHost: herd\r\nX-Request-Id: short\r\nContent-Length: %d\r\n\r\n%s", len(photo)+1, photo); err != nil {
		t.Fatal(err)
	}
	if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// Whether the client is still there to be answered can't be told from the connection; the log has it.
	if line := s.log.await(t, "request_id", "short", "status", nil); line["status"] != 400.0 && line["status"] != 499.0 {
		t.Errorf("a short body was logged as %v", line)
	}

	// Announces less than it sends: a cut picture, then bytes that are no request.
	status, _ := raw(t, s.dial(), fmt.Sprintf("PUT /image HTTP/1.1\r\nHost: herd\r\nContent-Length: %d\r\n\r\n%s", len(photo)/2, photo))
	if status != "HTTP/1.1 422 Unprocessable Entity" {
		t.Errorf("a long body was answered by %s", status)
	}
	status, _ = raw(t, s.dial(), "PUT /image HTTP/1.1\r\nHost: herd\r\nContent-Length: x\r\n\r\n")
	if status != "HTTP/1.1 400 Bad Request" {
		t.Errorf("no length was answered by %s", status)
	}
	status, _ = raw(t, s.dial(), "PUT /image HTTP/1.1\r\nHost: herd\r\nTransfer-Encoding: chunked\r\n\r\nmoo\r\n")
	if status != "HTTP/1.1 400 Bad Request" {
		t.Errorf("a broken chunk was answered by %s", status)
	}
	expectImage(t, s.put(photo))
}

// A client that leaves while it sends, waits or is being served costs nobody else anything.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-small.jpg")
	request := func(id string, length int) string {
		return fmt.Sprintf("PUT /image HTTP/1.1\r\nHost: herd\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n", id, length)
	}
	leave := func(connection net.Conn, sent string) {
		if _, err := io.WriteString(connection, sent); err != nil {
			t.Fatal(err)
		}
		if err := connection.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// The fixed policy holds pictures in the queue until two are there.
	s := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "0", "--max-queue-size", "1", module("negate.pt"))

	leave(s.dial(), request("while sending", len(photo))+string(photo[:1000]))
	if line := s.log.await(t, "request_id", "while sending", "status", nil); line["status"] != 499.0 && line["status"] != 400.0 {
		t.Errorf("a client that left while sending was logged as %v", line)
	}

	// Of two at once, one takes the queue's only place and the other is refused. Then the first one leaves.
	refused := make(chan string, 2)
	cancels := map[string]context.CancelFunc{}
	for _, id := range []string{"one", "two"} {
		ctx, cancel := context.WithCancel(t.Context())
		cancels[id] = cancel
		go func() {
			a, err := s.tryWith(ctx, http.MethodPut, "/image", bytes.NewReader(photo), "X-Request-Id", id)
			if err == nil {
				expectError(t, a, 503, "I'm too busy")
				refused <- id
			}
		}()
	}
	queued := map[string]string{"one": "two", "two": "one"}[<-refused]
	cancels[queued]()
	if line := s.log.await(t, "request_id", queued, "status", nil); line["status"] != 499.0 {
		t.Errorf("a client that left while queued was logged as %v", line)
	}
	expectError(t, s.put(photo, "X-Request-Timeout", "100ms"), 504, "deadline") // accepted, so its place is free again

	// One that leaves while its batch runs: the other of the two gets its picture.
	slow := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--size", "768x768")
	batches := slow.log.count("batch", nil, "width", 768.0)
	connection := slow.dial()
	if _, err := io.WriteString(connection, request("while running", len(photo))+string(photo)); err != nil {
		t.Fatal(err)
	}
	other := slow.later(photo)
	slow.log.awaitCount(t, batches+1, "batch", nil, "width", 768.0)
	leave(connection, "")
	if line := slow.log.await(t, "request_id", "while running", "status", nil); line["status"] != 499.0 {
		t.Errorf("a client that left while running was logged as %v", line)
	}
	a := <-other
	expectImage(t, a)
	if timing(a)["batch"] != "2" {
		t.Errorf("they didn't share a batch: %v", timing(a))
	}
}

// A model's failure reaches its own batch, in general words; the log has the reason under the request's id.
func TestAFailingModelFailsOneBatch(t *testing.T) {
	t.Parallel()
	s := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--size", "16x16", module("fails_on_black.pt"))
	black, white := solid(t, color.NRGBA{A: 255}), solid(t, color.NRGBA{255, 255, 255, 255})
	first, second := s.later(black, "X-Request-Id", "unlucky"), s.later(white, "X-Request-Id", "beside")
	for _, a := range []answer{<-first, <-second} {
		expectError(t, a, 500, "the model failed")
		if strings.Contains(string(a.body), "black") {
			t.Errorf("the answer tells the model's inner text: %s", a.body)
		}
	}
	for _, id := range []string{"unlucky", "beside"} {
		if line := s.log.await(t, "request_id", id, "error", nil); !strings.Contains(fmt.Sprint(line["error"]), "black") {
			t.Errorf("the log doesn't say why: %v", line)
		}
	}
	first, second = s.later(white), s.later(white)
	expectImage(t, <-first)
	expectImage(t, <-second)
}

// Of four pictures three wait for a batch of four, as many as the queue holds, and the fourth is refused.
func TestBusy(t *testing.T) {
	t.Parallel()
	for _, compat := range []string{"none", "sanic"} {
		s := start(t, "--compat", compat, "--wait-policy", "fixed", "--max-wait", "1h", "--max-batch-size", "4", module("negate.pt"))
		answers := make(chan answer, 4)
		for range 4 {
			go func() { answers <- <-s.later(photograph(t, "jpeg-small.jpg")) }()
		}
		refused := <-answers
		if refused.status != 503 || string(refused.body) != "I'm too busy" || refused.header.Get("Retry-After") != "1" {
			t.Errorf("%d %q, Retry-After %q", refused.status, refused.body, refused.header.Get("Retry-After"))
		}
		drained := s.drain() // which starts the others' batch
		for range 3 {
			a := <-answers
			expectImage(t, a)
			if timing(a)["batch"] != "3" {
				t.Errorf("batch of %s", timing(a)["batch"])
			}
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
	}
}
