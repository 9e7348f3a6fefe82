package cork_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/torchherd/torchherd/server/internal/cork"
)

// A counting listener counts the writes to the connections that it accepts.
type counting struct {
	net.Listener
	writes *atomic.Int32
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.writes}, err
}

type countingConn struct {
	net.Conn
	writes *atomic.Int32
}

func (c countingConn) Write(data []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(data)
}

// writesOf sends requests to a server that responds with body by cork.Send, checks the responses, and returns the number
// of writes that one response took.
func writesOf(t *testing.T, body []byte, corked bool) int32 {
	t.Helper()
	var writes atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := cork.Send(w, r, func() error {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, err := w.Write(body)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}))
	server.Listener = counting{server.Listener, &writes}
	if corked {
		server.Listener = cork.Listener(server.Listener)
	}
	server.Config.ConnContext = cork.Context
	server.Start()
	defer server.Close()
	// Two requests on one connection: the second response must not contain bytes of the first.
	for range 2 {
		writes.Store(0)
		response, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		if err != nil || response.Body.Close() != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, body) {
			t.Fatalf("got %d bytes that differ from the %d that were sent", len(got), len(body))
		}
	}
	return writes.Load()
}

func TestAResponseIsOneWrite(t *testing.T) {
	for _, size := range []int{0, 1, 4000, 5000, 60000} {
		if writes := writesOf(t, bytes.Repeat([]byte("p"), size), true); writes != 1 {
			t.Errorf("%d bytes: got %d writes, want 1", size, writes)
		}
	}
}

func TestALongResponseIsComplete(t *testing.T) {
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(i * 31 >> 8)
	}
	writesOf(t, body, true)
}

func TestAConnectionWithoutListenerIsNotCorked(t *testing.T) {
	if writes := writesOf(t, bytes.Repeat([]byte("p"), 5000), false); writes < 2 {
		t.Errorf("got %d write: net/http sends a response in one write now, so delete this package", writes)
	}
}

func TestAClosedConnectionIsAnError(t *testing.T) {
	failed := make(chan error, 1)
	left := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-left
		<-r.Context().Done() // the server has detected the closed connection
		failed <- cork.Send(w, r, func() error {
			_, err := w.Write(make([]byte, 1<<20))
			return err
		})
	}))
	server.Listener = cork.Listener(server.Listener)
	server.Config.ConnContext = cork.Context
	server.Start()
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: here\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// A reset makes the first write fail.
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	close(left)
	if err := <-failed; err == nil {
		t.Error("got no error")
	}
}
