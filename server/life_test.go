package main

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/torchherd/torchherd/server/internal/cli"
)

const (
	interrupt = syscall.SIGINT
	terminate = syscall.SIGTERM
)

func TestHealth(t *testing.T) {
	c := start(t, module("negate.pt"))
	var out bytes.Buffer
	if status := cli.Run("test", []string{"health", "--listen", strings.TrimPrefix(c.url, "http://")}, &out, &out); status != 0 || out.String() != "ready\n" {
		t.Errorf("torchherd health: %d %q", status, out.String())
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := c.do(http.MethodGet, path, nil); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// An upload is a request whose body comes bit by bit.
type upload struct {
	body *io.PipeWriter
	done chan struct{} // closed when answer and err are there
	answer
	err error
}

// upload begins to send a picture and returns when the server has begun to receive it.
func (c *command) upload(picture []byte) *upload {
	c.t.Helper()
	reader, writer := io.Pipe()
	u := &upload{body: writer, done: make(chan struct{})}
	c.t.Cleanup(func() { _ = writer.Close() })
	go func() {
		defer close(u.done)
		// The server asks for the body when it begins to read it, and the pipe is read only then.
		u.answer, u.err = c.try(http.MethodPut, "/image", reader, "Expect", "100-continue")
	}()
	if _, err := writer.Write(picture[:100]); err != nil {
		c.t.Fatal(err)
	}
	return u
}

// finish sends the rest.
func (u *upload) finish(t *testing.T, picture []byte) answer {
	t.Helper()
	if _, err := u.body.Write(picture[100:]); err != nil {
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

// Readiness falls first; what was accepted is answered; new pictures are refused; then the command ends well.
func TestDrain(t *testing.T) {
	for _, signal := range []syscall.Signal{interrupt, terminate} {
		c := start(t, module("negate.pt"))
		photo := photograph(t, "jpeg-420.jpg")
		accepted := c.upload(photo)
		c.signal(signal)
		c.await("draining: no new pictures; a second signal exits at once")
		var ready answer
		for ready.status != 503 {
			ready = c.do(http.MethodGet, "/readyz", nil)
		}
		refused := c.put(photo)
		expectError(t, refused, 503, "shutting down")
		if !refused.close {
			t.Error("the refusal doesn't close the connection")
		}
		if a := c.do(http.MethodGet, "/healthz", nil); a.status != 200 {
			t.Errorf("/healthz while draining: %d", a.status)
		}
		expectImage(t, accepted.finish(t, photo))
		if state := c.wait(); state.ExitCode() != 0 {
			t.Errorf("ended by %v", state)
		}
	}
}

// With --drain-delay pictures are still welcome for a while after readiness has fallen.
func TestDrainDelay(t *testing.T) {
	c := start(t, "--drain-delay", "1h", module("negate.pt"))
	c.signal(terminate)
	c.await("about to stop: not ready any more; a second signal exits at once")
	expectError(t, c.do(http.MethodGet, "/readyz", nil), 503, "shutting down")
	expectImage(t, c.put(photograph(t, "jpeg-small.jpg")))

	// A short one ends by itself.
	c = start(t, "--drain-delay", "1ms", module("negate.pt"))
	c.signal(terminate)
	c.await("draining: no new pictures; a second signal exits at once")
	if state := c.wait(); state.ExitCode() != 0 {
		t.Errorf("ended by %v", state)
	}
}

func TestASecondSignalExitsAtOnce(t *testing.T) {
	c := start(t, module("negate.pt"))
	c.upload(photograph(t, "jpeg-420.jpg")) // never answered
	c.signal(terminate)
	c.await("draining: no new pictures; a second signal exits at once")
	c.signal(terminate)
	if status, ok := c.wait().Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != terminate {
		t.Errorf("ended by %v", c.state)
	}
}

func TestDrainTimeout(t *testing.T) {
	c := start(t, "--drain-timeout", "50ms", module("negate.pt"))
	cut := c.upload(photograph(t, "jpeg-420.jpg"))
	c.signal(terminate)
	if state := c.wait(); state.ExitCode() != 1 {
		t.Errorf("ended by %v", state)
	}
	_ = cut.body.CloseWithError(io.ErrUnexpectedEOF) // the client's end gives up only now
	if <-cut.done; cut.err == nil {
		t.Errorf("the request that took too long was answered by %d", cut.status)
	}
}

// With the adaptive policy a lone request doesn't wait; with the fixed one it waits for max-wait; a batch of two is
// launched when the second one comes.
func TestWaitPolicies(t *testing.T) {
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
	c := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "100ms", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	expectError(t, c.put(photo), 504, "deadline")
	expectError(t, c.put(photo, "X-Request-Timeout", "1h"), 504, "deadline") // can't be made longer
	expectError(t, c.put(photo, "X-Request-Timeout", "0.01"), 504, "deadline")
	for _, bad := range []string{"soon", "-1", "0", "1 s"} {
		expectError(t, c.put(photo, "X-Request-Timeout", bad), 400, "X-Request-Timeout")
	}
	// A body that doesn't come in time.
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	expectError(t, c.do(http.MethodPut, "/image", reader), 504, "deadline")
	// A patient server leaves the limit to the client.
	patient := start(t, "--wait-policy", "fixed", "--max-wait", "1h", "--request-timeout", "0", module("negate.pt"))
	expectError(t, patient.put(photo, "X-Request-Timeout", "20ms"), 504, "deadline")
}
