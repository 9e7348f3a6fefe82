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

// A badRequest is a request with the expected response.
type badRequest struct {
	name   string
	body   io.Reader
	status int
	sanic  int    // the status with --compat sanic
	text   string // in the response
}

func badRequests(t testing.TB) []badRequest {
	photo := photograph(t, "jpeg-420.jpg")
	tooLarge := make([]byte, 1<<22+1)
	all := []badRequest{
		{"empty", bytes.NewReader(nil), 415, 500, "the body is empty"},
		{"empty and chunked", io.MultiReader(), 415, 500, "the body is empty"},
		{"text", strings.NewReader("moo"), 415, 500, "JPEG, PNG, WebP, AVIF, JPEG 2000, GIF, BMP or TIFF"},
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

// bomb returns an image of 100 million pixels in a few kilobytes.
func bomb(t testing.TB) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := png.Encode(&file, image.NewPaletted(image.Rect(0, 0, 20000, 5000), color.Palette{color.Black, color.White})); err != nil {
		t.Fatal(err)
	}
	if file.Len() > 100<<10 {
		t.Fatalf("the bomb has %d bytes, want at most 100 KiB", file.Len())
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
			r := s.do(http.MethodPut, "/image", bad.body)
			t.Run(bad.name, func(t *testing.T) { expectError(t, r, status, bad.text) })
			expectImage(t, <-beside)
		}
	}
	// The demo doesn't support palette images, so they are errors only with --compat sanic.
	palette := photograph(t, "png-palette.png")
	expectImage(t, ordinary.put(palette))
	expectError(t, sanic.put(palette), 500, "need rgb image")
}

func TestOtherPathsAndMethodsNameTheRightOnes(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	expectError(t, s.do(http.MethodGet, "/", nil), 404, "/image")
	expectError(t, s.do(http.MethodPut, "/images", nil), 404, "/image")
	r := s.do(http.MethodGet, "/image", nil)
	expectError(t, r, 405, "PUT or POST")
	if got := r.header.Get("Allow"); got != "PUT, POST, OPTIONS" {
		t.Errorf("Allow = %q, want \"PUT, POST, OPTIONS\"", got)
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

// raw sends bytes as they are, and returns the status line of the response and a reader of the rest.
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

// The server refuses a request that is too large in place of "100 Continue", before it receives the body.
func TestTooLargeIsRefusedUnread(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	for _, expect := range []string{"Expect: 100-continue\r\n", ""} {
		status, rest := raw(t, s.dial(), "PUT /image HTTP/1.1\r\nHost: herd\r\nContent-Length: 4194305\r\n"+expect+"\r\n")
		text, err := io.ReadAll(rest) // the server closes the connection
		if err != nil || status != "HTTP/1.1 413 Request Entity Too Large" || !strings.HasSuffix(string(text), "Too large") {
			t.Errorf("%q: got %s\n%s, %v, want 413 and \"Too large\"", expect, status, text, err)
		}
	}
}

func TestWrongContentLength(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")

	// The client sends less than its Content-Length and closes its side of the connection.
	connection := s.dial()
	if _, err := fmt.Fprintf(connection, "PUT /image HTTP/1.1\r\nHost: herd\r\nX-Request-Id: short\r\nContent-Length: %d\r\n\r\n%s", len(photo)+1, photo); err != nil {
		t.Fatal(err)
	}
	if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// The server can't distinguish a half-closed connection from a disconnected client, so the client may get no response.
	// The log has the status.
	if line := s.log.await(t, "request_id", "short", "status", nil); line["status"] != 400.0 && line["status"] != 499.0 {
		t.Errorf("a body that is too short: logged %v, want status 400 or 499", line)
	}

	// The client sends more than its Content-Length: a cut image, then bytes that aren't a request.
	status, _ := raw(t, s.dial(), fmt.Sprintf("PUT /image HTTP/1.1\r\nHost: herd\r\nContent-Length: %d\r\n\r\n%s", len(photo)/2, photo))
	if status != "HTTP/1.1 422 Unprocessable Entity" {
		t.Errorf("a body that is too long: got %s, want 422", status)
	}
	status, _ = raw(t, s.dial(), "PUT /image HTTP/1.1\r\nHost: herd\r\nContent-Length: x\r\n\r\n")
	if status != "HTTP/1.1 400 Bad Request" {
		t.Errorf("an invalid Content-Length: got %s, want 400", status)
	}
	status, _ = raw(t, s.dial(), "PUT /image HTTP/1.1\r\nHost: herd\r\nTransfer-Encoding: chunked\r\n\r\nmoo\r\n")
	if status != "HTTP/1.1 400 Bad Request" {
		t.Errorf("an invalid chunk: got %s, want 400", status)
	}
	expectImage(t, s.put(photo))
}

// A client that disconnects while it sends, in the queue or during its batch affects no other client.
func TestClientsThatDisconnect(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-small.jpg")
	request := func(id string, length int) string {
		return fmt.Sprintf("PUT /image HTTP/1.1\r\nHost: herd\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n", id, length)
	}
	disconnect := func(connection net.Conn, sent string) {
		if _, err := io.WriteString(connection, sent); err != nil {
			t.Fatal(err)
		}
		if err := connection.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// With the fixed policy an image waits in the queue until there are two.
	s := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "0", "--max-queue-size", "1", module("negate.pt"))

	disconnect(s.dial(), request("while sending", len(photo))+string(photo[:1000]))
	if line := s.log.await(t, "request_id", "while sending", "status", nil); line["status"] != 499.0 && line["status"] != 400.0 {
		t.Errorf("a client that disconnected while sending: logged %v, want status 499 or 400", line)
	}

	// The queue has room for one of two images, and the server refuses the other. Then the client of the first disconnects.
	refused := make(chan string, 2)
	cancels := map[string]context.CancelFunc{}
	for _, id := range []string{"one", "two"} {
		ctx, cancel := context.WithCancel(t.Context())
		cancels[id] = cancel
		go func() {
			r, err := s.tryWith(ctx, http.MethodPut, "/image", bytes.NewReader(photo), "X-Request-Id", id)
			if err == nil {
				expectError(t, r, 503, "I'm too busy")
				refused <- id
			}
		}()
	}
	queued := map[string]string{"one": "two", "two": "one"}[<-refused]
	cancels[queued]()
	if line := s.log.await(t, "request_id", queued, "status", nil); line["status"] != 499.0 {
		t.Errorf("a client that disconnected while queued: logged %v, want status 499", line)
	}
	expectError(t, s.put(photo, "X-Request-Timeout", "100ms"), 504, "deadline") // accepted, so the queue is empty again

	// One client of a batch of two disconnects while the batch runs. The other gets its image.
	slow := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--size", "768x768")
	batches := slow.log.count("batch", nil, "width", 768.0)
	connection := slow.dial()
	if _, err := io.WriteString(connection, request("while running", len(photo))+string(photo)); err != nil {
		t.Fatal(err)
	}
	other := slow.later(photo)
	slow.log.awaitCount(t, batches+1, "batch", nil, "width", 768.0)
	disconnect(connection, "")
	if line := slow.log.await(t, "request_id", "while running", "status", nil); line["status"] != 499.0 {
		t.Errorf("a client that disconnected while its batch ran: logged %v, want status 499", line)
	}
	r := <-other
	expectImage(t, r)
	if timing(r)["batch"] != "2" {
		t.Errorf("got %v, want a batch of 2", timing(r))
	}
}

// The clients of the failed batch get a fixed text. The log has the reason, under the requests' ids.
func TestAFailingModelFailsOneBatch(t *testing.T) {
	t.Parallel()
	s := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--size", "16x16", module("fails_on_black.pt"))
	black, white := solid(t, color.NRGBA{A: 255}), solid(t, color.NRGBA{255, 255, 255, 255})
	first, second := s.later(black, "X-Request-Id", "unlucky"), s.later(white, "X-Request-Id", "beside")
	for _, r := range []response{<-first, <-second} {
		expectError(t, r, 500, "the model failed")
		if strings.Contains(string(r.body), "black") {
			t.Errorf("the response has the model's error: %s", r.body)
		}
	}
	for _, id := range []string{"unlucky", "beside"} {
		if line := s.log.await(t, "request_id", id, "error", nil); !strings.Contains(fmt.Sprint(line["error"]), "black") {
			t.Errorf("logged %v, want the model's error", line)
		}
	}
	first, second = s.later(white), s.later(white)
	expectImage(t, <-first)
	expectImage(t, <-second)
}

// The batch size is four, but the queue has room for three images, so the server refuses the fourth.
func TestAFullQueueRefuses(t *testing.T) {
	t.Parallel()
	for _, compat := range []string{"none", "sanic"} {
		s := start(t, "--compat", compat, "--wait-policy", "fixed", "--max-wait", "1h", "--max-batch-size", "4", module("negate.pt"))
		responses := make(chan response, 4)
		for range 4 {
			go func() { responses <- <-s.later(photograph(t, "jpeg-small.jpg")) }()
		}
		refused := <-responses
		if refused.status != 503 || string(refused.body) != "I'm too busy" || refused.header.Get("Retry-After") != "1" {
			t.Errorf("got %d %q, Retry-After %q, want 503 \"I'm too busy\", Retry-After \"1\"", refused.status, refused.body, refused.header.Get("Retry-After"))
		}
		drained := s.drain() // launches the others' batch; an image may still be decoded then
		for range 3 {
			expectImage(t, <-responses)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
	}
}
