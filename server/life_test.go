package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/app"
	"github.com/torchherd/torchherd/server/internal/cli"
)

const (
	interrupt = syscall.SIGINT
	terminate = syscall.SIGTERM
)

func TestHealth(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	var out bytes.Buffer
	if status := cli.Run("test", []string{"health", "--listen", s.address()}, &out, &out); status != 0 || out.String() != "ready\n" {
		t.Errorf("torchherd health: got status %d, output %q, want 0 and \"ready\"", status, out.String())
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if r := s.do(http.MethodGet, path, nil); r.status != 200 {
			t.Errorf("%s: got %d %s, want 200", path, r.status, r.body)
		}
	}
}

// An upload is a request whose body is sent in parts.
type upload struct {
	body *io.PipeWriter
	done chan struct{} // closed when response and err are set
	response
	err error
}

// upload starts to send an image and returns when the server has started to receive it.
func (g target) upload(image []byte) *upload {
	g.t.Helper()
	reader, writer := io.Pipe()
	u := &upload{body: writer, done: make(chan struct{})}
	g.t.Cleanup(func() { _ = writer.Close() })
	go func() {
		defer close(u.done)
		// The server sends "100 Continue" when it starts to read the body. The client reads from the pipe only then.
		u.response, u.err = g.try(http.MethodPut, "/image", reader, "Expect", "100-continue")
	}()
	if _, err := writer.Write(image[:100]); err != nil {
		g.t.Fatal(err)
	}
	return u
}

// finish sends the rest of the image and returns the response.
func (u *upload) finish(t *testing.T, image []byte) response {
	t.Helper()
	if _, err := u.body.Write(image[100:]); err != nil {
		t.Error(err)
	}
	if err := u.body.Close(); err != nil {
		t.Error(err)
	}
	<-u.done
	if u.err != nil {
		t.Error(u.err)
	}
	return u.response
}

// awaitUnready waits until /readyz returns 503.
func (g target) awaitUnready() {
	g.t.Helper()
	var r response
	is := func() bool {
		r = g.do(http.MethodGet, "/readyz", nil)
		return r.status == 503
	}
	if !poll(is) {
		g.t.Fatal("/readyz still returns 200, want 503")
	}
	expectError(g.t, r, 503, "shutting down")
}

// awaitRefusal sends images until one is refused, and returns that response.
func (g target) awaitRefusal(image []byte) response {
	g.t.Helper()
	var r response
	is := func() bool {
		r = g.put(image)
		return r.status != 200
	}
	if !poll(is) {
		g.t.Fatal("images are still accepted, want a refusal")
	}
	return r
}

// After a signal /readyz returns 503, new requests are refused, requests in flight finish, and the process exits with 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{interrupt, terminate} {
		p := startProcess(t, module("negate.pt"))
		photo := photograph(t, "jpeg-420.jpg")
		accepted := p.upload(photo)
		p.signal(signal)
		p.awaitUnready()
		refused := p.awaitRefusal(photo)
		expectError(t, refused, 503, "shutting down")
		if !refused.close {
			t.Error("the refusal keeps the connection open, want Connection: close")
		}
		if r := p.do(http.MethodGet, "/healthz", nil); r.status != 200 {
			t.Errorf("/healthz while draining: status = %d, want 200", r.status)
		}
		expectImage(t, accepted.finish(t, photo))
		if state := p.wait(); state.ExitCode() != 0 {
			t.Errorf("got %v, want exit status 0", state)
		}
	}
}

// During --drain-delay the server accepts images while /readyz returns 503.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--drain-delay", "1h", module("negate.pt"))
	p.signal(terminate)
	p.awaitUnready()
	expectImage(t, p.put(photograph(t, "jpeg-small.jpg")))

	// After the delay the process exits.
	p = startProcess(t, "--drain-delay", "1ms", module("negate.pt"))
	p.signal(terminate)
	if state := p.wait(); state.ExitCode() != 0 {
		t.Errorf("got %v, want exit status 0", state)
	}
}

func TestASecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	p := startProcess(t, module("negate.pt"))
	p.upload(photograph(t, "jpeg-420.jpg")) // never finished
	p.signal(terminate)
	p.awaitUnready()
	p.signal(terminate)
	if status, ok := p.wait().Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != terminate {
		t.Errorf("got %v, want an end by SIGTERM", p.state)
	}
}

func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--drain-timeout", "50ms", module("negate.pt"))
	cut := p.upload(photograph(t, "jpeg-420.jpg"))
	p.signal(terminate)
	if state := p.wait(); state.ExitCode() != 1 {
		t.Errorf("got %v, want exit status 1", state)
	}
	if text, _ := p.lastLine()["error"].(string); text != "draining took longer than 50ms; requests cut off: 1" {
		t.Errorf("the last line is %v", p.lastLine())
	}
	_ = cut.body.CloseWithError(io.ErrUnexpectedEOF) // the client stops sending
	if <-cut.done; cut.err == nil {
		t.Errorf("the request that took too long: got status %d, want an error", cut.status)
	}
}

// A missing model, a file that isn't a model, and invalid settings end the command before it listens: the address is in use,
// and the errors are about the models.
func TestBadModelsAreReportedBeforeListening(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	invalidSettings := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt", "model.yaml": "qualty: 90\n"})
	for _, test := range []struct{ model, text string }{
		{module("missing.pt"), "no such file"},
		{t.TempDir(), "no versions found"},
		{photographPath("jpeg-420.jpg"), "not a module"},
		{module("garbage.pt"), "not a module"},
		{module("truncated.pt"), "not a module"},
		{module("checkpoint.pth"), "torchherd_tools export"},
		{invalidSettings, `unknown setting "qualty"`},
	} {
		expectFailure(t, test.text, "--listen", taken.Addr().String(), test.model)
	}
	expectFailure(t, "choose another address by --listen", "--listen", taken.Addr().String(), module("negate.pt"))
	expectFailure(t, "choose another address by --admin-listen", "--admin-listen", taken.Addr().String(), module("negate.pt"))
}

// After a failed Start, the address can be used again.
func TestAFailedStartFreesTheAddress(t *testing.T) {
	t.Parallel()
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	options, err := cli.ServeOptions("test", serveArguments([]string{"--listen", address, module("two_channels.pt")}), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a, err := app.New(options)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Start(t.Context()); err == nil || errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("start: got %v, want the error of the model", err)
		}
	}
}

// With the adaptive policy a single request doesn't wait. With the fixed policy it waits for --max-wait, and a batch of two
// starts when the second image arrives.
func TestWaitPolicies(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-small.jpg")
	expectImage(t, start(t, "--max-wait", "1h", module("negate.pt")).put(photo))

	fixed := start(t, "--wait-policy", "fixed", "--max-wait", "200ms", module("negate.pt"))
	r := fixed.put(photo)
	expectImage(t, r)
	if queued, err := strconv.ParseFloat(timing(r)["queue"], 64); err != nil || queued < 200 {
		t.Errorf("a single request was queued for %v ms, want at least 200", queued)
	}

	sanic := start(t, "--compat", "sanic", "--max-wait", "1h", module("negate.pt"))
	first, second := sanic.later(photo), sanic.later(photo)
	for _, r := range []response{<-first, <-second} {
		expectImage(t, r)
		if timing(r)["batch"] != "2" {
			t.Errorf("batch = %s, want 2", timing(r)["batch"])
		}
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	s := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "100ms", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	expectError(t, s.put(photo), 504, "deadline")
	expectError(t, s.put(photo, "X-Request-Timeout", "1h"), 504, "deadline") // not longer than --request-timeout
	expectError(t, s.put(photo, "X-Request-Timeout", "0.01"), 504, "deadline")
	for _, bad := range []string{"soon", "-1", "0", "1 s"} {
		expectError(t, s.put(photo, "X-Request-Timeout", bad), 400, "X-Request-Timeout")
	}
	// The body doesn't arrive in time.
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	expectError(t, s.do(http.MethodPut, "/image", reader), 504, "deadline")
	// Without --request-timeout, the client's limit applies.
	unlimited := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "0", module("negate.pt"))
	expectError(t, unlimited.put(photo, "X-Request-Timeout", "20ms"), 504, "deadline")
}
