package listen_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/torchherd/torchherd/server/internal/listen"
)

// limit is how long a test waits for an event before it fails.
const limit = 30 * time.Second

// A server is an http.Server on a Listener.
type server struct {
	listener *listen.Listener
	address  string
}

// serve starts a server, which the end of the test stops.
func serve(t *testing.T, limits listen.Limits, handler http.HandlerFunc) *server {
	t.Helper()
	inner, err := listen.Open(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := listen.New(inner, limits)
	s := &http.Server{Handler: handler, ConnState: l.ConnState, ConnContext: listen.Context}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Stop()
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return &server{l, listen.Address(l)}
}

func (s *server) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := listen.Dial(t.Context(), s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return c
}

// get sends a request on a connection and returns the response's status.
func get(t *testing.T, c net.Conn) int {
	t.Helper()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: here\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// expectEnd checks that the server closes a connection.
func expectEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %d bytes and %v, want a closed connection", n, err)
	}
}

func empty(_ http.ResponseWriter, r *http.Request) { listen.Complete(r.Context()) }

func TestAnIdleConnectionMakesRoomForANewOne(t *testing.T) {
	s := serve(t, listen.Limits{Connections: 2}, empty)
	silent, idle, next := s.dial(t), s.dial(t), s.dial(t)
	if status := get(t, idle); status != http.StatusOK {
		t.Fatalf("status = %d, want 200", status)
	}
	if status := get(t, next); status != http.StatusOK {
		t.Errorf("status = %d, want 200", status)
	}
	expectEnd(t, silent) // it has waited longest
	if status := get(t, idle); status != http.StatusOK {
		t.Errorf("status = %d, want 200", status)
	}
}

func TestWithoutAnIdleConnectionANewOneWaits(t *testing.T) {
	entered, leave := make(chan struct{}, 2), make(chan struct{})
	s := serve(t, listen.Limits{Connections: 1}, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	})
	done := make(chan int, 2)
	for range 2 {
		c := s.dial(t)
		go func() { done <- get(t, c) }()
	}
	<-entered
	select {
	case <-entered:
		t.Error("two connections are open, want one")
	default:
	}
	close(leave)
	for range 2 {
		if status := <-done; status != http.StatusOK {
			t.Errorf("status = %d, want 200", status)
		}
	}
}

func TestConnectionsOfOneAddressAreLimited(t *testing.T) {
	s := serve(t, listen.Limits{Connections: 10, PerAddress: 1}, empty)
	first := s.dial(t)
	if status := get(t, first); status != http.StatusOK {
		t.Errorf("status = %d, want 200", status)
	}
	second := s.dial(t)
	if status := get(t, second); status != http.StatusServiceUnavailable {
		t.Errorf("status = %d, want 503", status)
	}
	expectEnd(t, second)
	_ = first.Close()
	for begin := time.Now(); ; { // until the server has noticed
		if get(t, s.dial(t)) == http.StatusOK {
			return
		}
		if time.Since(begin) > limit {
			t.Fatal("a closed connection still counts")
		}
	}
}

// refuse responds before it has read the body, as package api does.
func refuse(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", "2")
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, "no")
	connection := http.NewResponseController(w)
	_ = connection.Flush()
	_ = connection.SetReadDeadline(time.Unix(1, 0))
	panic(http.ErrAbortHandler)
}

const upload = "PUT / HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 8388608\r\n\r\n"

// The client sends its whole request before it reads.
func TestAnEarlyResponseArrives(t *testing.T) {
	s := serve(t, listen.Limits{Connections: 10, LingerBytes: 16 << 20}, refuse)
	body := make([]byte, 8<<20)
	for range 20 {
		c := s.dial(t)
		if _, err := io.WriteString(c, upload); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(body); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 404 ") {
			t.Fatalf("got %.20q, %v, want 404", text, err)
		}
		_ = c.Close()
	}
}

func TestALingeringConnectionReadsLittle(t *testing.T) {
	s := serve(t, listen.Limits{Connections: 10, LingerBytes: 1 << 20}, refuse)
	c := s.dial(t)
	if _, err := io.WriteString(c, upload); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < limit; {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want a closed connection", err)
			}
			return
		}
	}
	t.Error("the server still reads")
}

func TestStopEndsLingeringConnections(t *testing.T) {
	s := serve(t, listen.Limits{Connections: 10, LingerBytes: 1 << 40}, refuse)
	c := s.dial(t)
	if _, err := io.WriteString(c, upload); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 404 ") {
		t.Fatalf("got %.20q, %v, want 404", text, err)
	}
	s.listener.Stop()
	for begin := time.Now(); time.Since(begin) < limit; {
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
	}
	t.Error("the connection still lingers")
}

func TestUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	address := "unix:" + path
	ctx := context.Background()
	first, err := listen.Open(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	if got := listen.Address(first); got != address {
		t.Errorf("address = %s, want %s", got, address)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("got %v, %v, want mode 0660", info, err)
	}
	if _, err := listen.Open(ctx, address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want an error since a server listens", err)
	}
	// The socket of a server that was killed stays.
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := listen.Open(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: got %v, want no socket", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen.Open(ctx, address); err == nil || !strings.Contains(err.Error(), "isn't a socket") {
		t.Errorf("got %v, want an error since the file isn't a socket", err)
	}
	if _, err := listen.Open(ctx, "unix:"+strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "103") {
		t.Errorf("got %v, want the maximum length", err)
	}
}

func TestCheck(t *testing.T) {
	for address, valid := range map[string]bool{
		":8000": true, "localhost:8000": true, "[::1]:0": true, "unix:/run/x": true, "unix:x": true,
		"": false, "8000": false, "localhost": false, "localhost:": false, "unix:": false, "::1:8000": false,
	} {
		if err := listen.Check(address); (err == nil) != valid {
			t.Errorf("%q: got %v, want valid = %v", address, err, valid)
		}
	}
}

// Refusals in a row take longer each time, on their own connection only, until a request of it is accepted.
func TestRefusalsInARowTakeLonger(t *testing.T) {
	pauses := make(chan time.Duration, 1)
	s := serve(t, listen.Limits{Connections: 10}, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/accepted" {
			listen.Accepted(r.Context())
			pauses <- -1
			return
		}
		pauses <- listen.Refused(r.Context())
	})
	send := func(c net.Conn, path string) time.Duration {
		t.Helper()
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return <-pauses
	}
	c := s.dial(t)
	for i, want := range []time.Duration{0, 50, 100, 200, 400, 800, 1000, 1000, 1000} {
		if got := send(c, "/refused"); got != want*time.Millisecond {
			t.Errorf("refusal %d takes %v, want %d ms", i+1, got, want)
		}
	}
	if got := send(s.dial(t), "/refused"); got != 0 {
		t.Errorf("the first refusal of another connection takes %v", got)
	}
	send(c, "/accepted")
	if got := send(c, "/refused"); got != 0 {
		t.Errorf("the first refusal after an accepted request takes %v", got)
	}
}

// Discard drops the rest of a body of any length, and nothing of the request behind it.
func TestDiscardEndsWithTheBody(t *testing.T) {
	paths := make(chan string, 1)
	s := serve(t, listen.Limits{Connections: 10}, func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		if err := listen.Discard(r.Context(), r.Body, r.ContentLength); err != nil {
			t.Error(err)
		}
		paths <- r.URL.Path
	})
	c := s.dial(t)
	var requests strings.Builder
	lengths := []int{1, 4 << 10, 16 << 10, 16<<10 + 1, 100_000, 1 << 20, 0}
	for i, length := range lengths {
		fmt.Fprintf(&requests, "PUT /%d HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", i, length, strings.Repeat("x", length))
	}
	go func() { _, _ = io.WriteString(c, requests.String()) }()
	for i, length := range lengths {
		if got, want := <-paths, fmt.Sprintf("/%d", i); got != want {
			t.Fatalf("after a body of %d bytes: got a request of %q, want %q", length, got, want)
		}
	}
}
