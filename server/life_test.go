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
	"time"

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
		t.Errorf("torchherd health: %d %q", status, out.String())
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := s.do(http.MethodGet, path, nil); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// An upload is a request whose body arrives piece by piece.
type upload struct {
	body *io.PipeWriter
	done chan struct{} // closed when answer and err are there
	answer
	err error
}

// upload begins to send an image and returns when the server has begun to receive it.
func (g target) upload(image []byte) *upload {
	g.t.Helper()
	reader, writer := io.Pipe()
	u := &upload{body: writer, done: make(chan struct{})}
	g.t.Cleanup(func() { _ = writer.Close() })
	go func() {
		defer close(u.done)
		// The server asks for the body when it begins to read it, and the pipe is read only then.
		u.answer, u.err = g.try(http.MethodPut, "/image", reader, "Expect", "100-continue")
	}()
	if _, err := writer.Write(image[:100]); err != nil {
		g.t.Fatal(err)
	}
	return u
}

// finish sends the rest.
func (u *upload) finish(t *testing.T, image []byte) answer {
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
	return u.answer
}

// awaitUnready waits until /readyz fails.
func (g target) awaitUnready() {
	g.t.Helper()
	for begin := time.Now(); time.Since(begin) < limit; {
		if a := g.do(http.MethodGet, "/readyz", nil); a.status == 503 {
			expectError(g.t, a, 503, "shutting down")
			return
		}
	}
	g.t.Fatal("/readyz doesn't fail")
}

// awaitRefusal sends images until one is refused, and returns that answer.
func (g target) awaitRefusal(image []byte) answer {
	g.t.Helper()
	for begin := time.Now(); time.Since(begin) < limit; {
		a := g.put(image)
		if a.status != 200 {
			return a
		}
	}
	g.t.Fatal("no image is refused")
	return answer{}
}

// Readiness falls first; accepted images are answered; new ones are refused; then the process exits with 0.
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
			t.Error("the refusal doesn't close the connection")
		}
		if a := p.do(http.MethodGet, "/healthz", nil); a.status != 200 {
			t.Errorf("/healthz while draining: %d", a.status)
		}
		expectImage(t, accepted.finish(t, photo))
		if state := p.wait(); state.ExitCode() != 0 {
			t.Errorf("exited with %v", state)
		}
	}
}

// With --drain-delay images are still accepted for a while after readiness has fallen.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--drain-delay", "1h", module("negate.pt"))
	p.signal(terminate)
	p.awaitUnready()
	expectImage(t, p.put(photograph(t, "jpeg-small.jpg")))

	// A short one ends by itself.
	p = startProcess(t, "--drain-delay", "1ms", module("negate.pt"))
	p.signal(terminate)
	if state := p.wait(); state.ExitCode() != 0 {
		t.Errorf("exited with %v", state)
	}
}

func TestASecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	p := startProcess(t, module("negate.pt"))
	p.upload(photograph(t, "jpeg-420.jpg")) // never answered
	p.signal(terminate)
	p.awaitUnready()
	p.signal(terminate)
	if status, ok := p.wait().Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != terminate {
		t.Errorf("exited with %v", p.state)
	}
}

func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--drain-timeout", "50ms", module("negate.pt"))
	cut := p.upload(photograph(t, "jpeg-420.jpg"))
	p.signal(terminate)
	if state := p.wait(); state.ExitCode() != 1 {
		t.Errorf("exited with %v", state)
	}
	_ = cut.body.CloseWithError(io.ErrUnexpectedEOF) // the client's end gives up only now
	if <-cut.done; cut.err == nil {
		t.Errorf("the request that took too long was answered by %d", cut.status)
	}
}

// A model that isn't there, a file that is no model and wrong settings end the command before the listener opens: the
// address is taken, and the error isn't about that.
func TestWrongModelsAreFoundBeforeListening(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	wrongSettings := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt", "model.yaml": "qualty: 90\n"})
	for _, test := range []struct{ model, text string }{
		{module("missing.pt"), "no such file"},
		{t.TempDir(), "no versions found"},
		{photographPath("jpeg-420.jpg"), "not a model"},
		{module("garbage.pt"), "not a model"},
		{module("truncated.pt"), "not a model"},
		{module("checkpoint.pth"), "export it"},
		{wrongSettings, `unknown setting "qualty"`},
	} {
		expectFailure(t, test.text, "--listen", taken.Addr().String(), test.model)
	}
	expectFailure(t, "choose another address by --listen", "--listen", taken.Addr().String(), module("negate.pt"))
	expectFailure(t, "choose another address by --admin-listen", "--admin-listen", taken.Addr().String(), module("negate.pt"))
}

// A Start that fails leaves nothing behind: the address can be taken again.
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
			t.Errorf("start: %v", err)
		}
	}
}

// With the adaptive policy a lone request doesn't wait; with the fixed one it waits for max-wait; a batch of two starts
// when the second one arrives.
func TestWaitPolicies(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-small.jpg")
	lone := start(t, "--max-wait", "1h", module("negate.pt")).put(photo)
	expectImage(t, lone)

	fixed := start(t, "--wait-policy", "fixed", "--max-wait", "200ms", module("negate.pt"))
	a := fixed.put(photo)
	expectImage(t, a)
	if queued, err := strconv.ParseFloat(timing(a)["queue"], 64); err != nil || queued < 200 {
		t.Errorf("a lone request was queued for %v ms", queued)
	}

	sanic := start(t, "--compat", "sanic", "--max-wait", "1h", module("negate.pt"))
	first, second := sanic.later(photo), sanic.later(photo)
	for _, a := range []answer{<-first, <-second} {
		expectImage(t, a)
		if timing(a)["batch"] != "2" {
			t.Errorf("batch of %s", timing(a)["batch"])
		}
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	s := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "100ms", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	expectError(t, s.put(photo), 504, "deadline")
	expectError(t, s.put(photo, "X-Request-Timeout", "1h"), 504, "deadline") // can't be made longer
	expectError(t, s.put(photo, "X-Request-Timeout", "0.01"), 504, "deadline")
	for _, bad := range []string{"soon", "-1", "0", "1 s"} {
		expectError(t, s.put(photo, "X-Request-Timeout", bad), 400, "X-Request-Timeout")
	}
	// A body that doesn't arrive in time.
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	expectError(t, s.do(http.MethodPut, "/image", reader), 504, "deadline")
	// A patient server leaves the limit to the client.
	patient := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "0", module("negate.pt"))
	expectError(t, patient.put(photo, "X-Request-Timeout", "20ms"), 504, "deadline")
}
