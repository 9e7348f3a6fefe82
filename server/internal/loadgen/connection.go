package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// maxResponse is the maximum size of a response body in bytes.
	maxResponse = 64 << 20
	// maxIdle is how long a connection may be idle and still be reused. It is shorter than the idle timeout of servers
	// (5 s in uvicorn), so that no request is sent over a connection that the server is closing.
	maxIdle = 2 * time.Second
)

// A target is a server and how to connect to it.
type target struct {
	address  string
	tls      *tls.Config // nil: plain HTTP
	timeout  time.Duration
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	sameHost atomic.Bool // a connection went to a loopback address or a unix socket
}

// connect opens a connection. It gives up at the deadline.
func (t *target) connect(ctx context.Context, deadline time.Time) (net.Conn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := t.dial(ctx, "tcp", t.address)
	if err != nil {
		return nil, &dialError{err}
	}
	switch address := conn.RemoteAddr().(type) {
	case *net.TCPAddr:
		if address.IP.IsLoopback() {
			t.sameHost.Store(true)
		}
	case *net.UnixAddr:
		t.sameHost.Store(true)
	}
	if t.tls == nil {
		return conn, nil
	}
	secured := tls.Client(conn, t.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, &dialError{err}
	}
	return secured, nil
}

// encodeRequest returns a whole request. Each request is encoded once and its bytes are sent many times, so that sending
// takes one system call and no memory.
func encodeRequest(method, url string, image []byte) ([]byte, error) {
	var request fasthttp.Request
	request.SetRequestURI(url)
	request.Header.SetMethod(method)
	request.Header.SetUserAgent("torchherd-bench")
	request.Header.SetContentType(ContentType(image))
	request.SetBodyRaw(image)
	var b bytes.Buffer
	if _, err := request.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("request to %s: %w", url, err)
	}
	return b.Bytes(), nil
}

// A connection sends requests, one after the other, and connects when necessary. It uses the response parser of
// fasthttp, but not its client, which resends a PUT after a broken connection. The client of net/http takes three times
// the CPU time and 25 kB of garbage per request, at the expense of a server on the same machine.
type connection struct {
	target   *target
	conn     net.Conn // nil: not connected
	unwatch  func() bool
	reader   *bufio.Reader
	lastUsed time.Time
	response fasthttp.Response
}

// roundTrip sends a request and reads the response, which is valid until the next call. It closes the connection after
// an error and when ctx ends.
func (c *connection) roundTrip(ctx context.Context, request []byte) (*fasthttp.Response, error) {
	now := time.Now()
	deadline := now.Add(c.target.timeout)
	if c.conn != nil && now.Sub(c.lastUsed) > maxIdle {
		c.close()
	}
	if err := c.open(ctx, deadline); err != nil {
		return nil, err
	}
	err := c.conn.SetDeadline(deadline)
	if err == nil {
		_, err = c.conn.Write(request)
	}
	// A server may respond before it has read the whole request, and close. Writing fails then, but there is a response.
	if failure := c.read(); failure != nil {
		c.close()
		if err == nil {
			err = failure
		}
		return nil, err
	}
	c.lastUsed = time.Now()
	if err != nil || c.response.ConnectionClose() {
		c.close()
	}
	return &c.response, nil
}

// read reads a response. It waits for the first byte itself because fasthttp turns every error there into io.EOF.
func (c *connection) read() error {
	if _, err := c.reader.Peek(1); err != nil {
		return err
	}
	return c.response.ReadLimitBody(c.reader, maxResponse)
}

// open connects unless there is a connection.
func (c *connection) open(ctx context.Context, deadline time.Time) error {
	if c.conn != nil {
		return nil
	}
	conn, err := c.target.connect(ctx, deadline)
	if err != nil {
		return err
	}
	c.conn = conn
	c.unwatch = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if c.reader == nil {
		c.reader = bufio.NewReaderSize(nil, 8<<10) // must hold a response header; bodies bypass it
	}
	c.reader.Reset(conn)
	return nil
}

// close may be called more than once.
func (c *connection) close() {
	if c.conn == nil {
		return
	}
	c.unwatch()
	_ = c.conn.Close()
	c.conn = nil
}

// A dialError is returned if no connection could be opened.
type dialError struct{ err error }

func (e *dialError) Error() string { return "connect: " + errorText(e.err) }
func (e *dialError) Unwrap() error { return e.err }

func isDial(err error) bool {
	var dial *dialError
	return errors.As(err, &dial)
}

// failureText returns the text under which an error is counted. It has no ports or other parts that differ from request
// to request.
func failureText(err error) string {
	var dial *dialError
	var network net.Error
	switch {
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, fasthttp.ErrTimeout):
		return "no complete response in time"
	case errors.As(err, &dial):
		return dial.Error()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed during the response"
	case errors.Is(err, io.EOF):
		return "connection closed before the response"
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return fmt.Sprintf("response larger than %d MiB", maxResponse>>20)
	}
	return errorText(err)
}

// errorText returns an error's text without the addresses that package net adds.
func errorText(err error) string {
	var number syscall.Errno
	var operation *net.OpError
	if errors.As(err, &operation) {
		if errors.As(err, &number) {
			return operation.Op + ": " + number.Error()
		}
		return operation.Op + ": " + operation.Err.Error()
	}
	const maxLength = 160
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), maxLength)], "")
}
