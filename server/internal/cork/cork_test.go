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

// counting counts the writes on the connections that it accepts.
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

// answer asks a server that answers with body by way of cork.Answer, checks what comes, and returns how many writes an
// answer took.
func answer(t *testing.T, body []byte, corked bool) int32 {
	t.Helper()
	var writes atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := cork.Answer(w, r, func() error {
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
	// Twice, on one connection: what was kept for the first must not be in the second.
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
			t.Fatalf("%d bytes came, not the %d that were sent", len(got), len(body))
		}
	}
	return writes.Load()
}

func TestAnAnswerIsOneWrite(t *testing.T) {
	for _, size := range []int{0, 1, 4000, 5000, 60000} {
		if writes := answer(t, bytes.Repeat([]byte("p"), size), true); writes != 1 {
			t.Errorf("%d bytes: %d writes", size, writes)
		}
	}
}

func TestALongAnswerIsComplete(t *testing.T) {
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(i * 31 >> 8)
	}
	answer(t, body, true)
}

func TestOtherConnectionsAnswerAsEver(t *testing.T) {
	if writes := answer(t, bytes.Repeat([]byte("p"), 5000), false); writes < 2 {
		t.Errorf("%d write: net/http sends in one piece by itself, and this package isn't needed any more", writes)
	}
}

func TestAClientThatLeftIsAnError(t *testing.T) {
	failed := make(chan error, 1)
	left := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-left
		<-r.Context().Done() // the server has noticed
		failed <- cork.Answer(w, r, func() error {
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
	// A reset, so that the very first write fails.
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	close(left)
	if err := <-failed; err == nil {
		t.Error("no error")
	}
}
