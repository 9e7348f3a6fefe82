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
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// maxAnswer is how large an answer's body may be, in bytes.
	maxAnswer = 64 << 20
	// maxIdle is how long a connection may have been idle to be used again. It is less than the time after which
	// servers close idle connections (5 s in uvicorn), so that no request meets a connection that is being closed.
	maxIdle = 2 * time.Second
)

// A target is a server and how to reach it.
type target struct {
	address string
	tls     *tls.Config // nil: plain HTTP
	timeout time.Duration
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	beside  atomic.Bool // a connection went to this machine's loopback
}

// connect opens a connection, until the deadline.
func (t *target) connect(ctx context.Context, deadline time.Time) (net.Conn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := t.dial(ctx, "tcp", t.address)
	if err != nil {
		return nil, &dialError{err}
	}
	if address, ok := conn.RemoteAddr().(*net.TCPAddr); ok && address.IP.IsLoopback() {
		t.beside.Store(true)
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

// writeRequest is a whole request. Each is written once and its bytes sent many times, so sending costs one system
// call and no memory.
func writeRequest(method, url string, picture []byte) ([]byte, error) {
	var request fasthttp.Request
	request.SetRequestURI(url)
	request.Header.SetMethod(method)
	request.Header.SetUserAgent("torchherd-bench")
	request.Header.SetContentType(http.DetectContentType(picture))
	request.SetBodyRaw(picture)
	var b bytes.Buffer
	if _, err := request.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("request to %s: %w", url, err)
	}
	return b.Bytes(), nil
}

// A connection sends requests, one after the other, and connects when it must. Of fasthttp it uses the parser of
// answers, not the client: that one sends a PUT again when its connection breaks. net/http's client takes three times
// the CPU time and 25 kB of garbage a request, which a server on the same machine would pay for.
type connection struct {
	target   *target
	conn     net.Conn // nil: not connected
	unwatch  func() bool
	reader   *bufio.Reader
	lastUsed time.Time
	answer   fasthttp.Response
}

// exchange sends a request and reads its answer, which is valid until the next call. The connection is closed when
// either fails, and when ctx ends.
func (c *connection) exchange(ctx context.Context, request []byte) (*fasthttp.Response, error) {
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
	// A server may answer before it has read the whole request, and close. Then writing fails and the answer is there.
	if failure := c.read(); failure != nil {
		c.close()
		if err == nil {
			err = failure
		}
		return nil, err
	}
	c.lastUsed = time.Now()
	if err != nil || c.answer.ConnectionClose() {
		c.close()
	}
	return &c.answer, nil
}

// read reads an answer. It waits for the first byte itself, since fasthttp turns what can go wrong there into io.EOF.
func (c *connection) read() error {
	if _, err := c.reader.Peek(1); err != nil {
		return err
	}
	return c.answer.ReadLimitBody(c.reader, maxAnswer)
}

// open connects if there is no connection.
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
		c.reader = bufio.NewReaderSize(nil, 8<<10) // an answer's header must fit; bodies go past it
	}
	c.reader.Reset(conn)
	return nil
}

// close may be called twice.
func (c *connection) close() {
	if c.conn == nil {
		return
	}
	c.unwatch()
	_ = c.conn.Close()
	c.conn = nil
}

// A dialError is why there is no connection.
type dialError struct{ err error }

func (e *dialError) Error() string { return "connect: " + plain(e.err) }
func (e *dialError) Unwrap() error { return e.err }

func isDial(err error) bool {
	var dial *dialError
	return errors.As(err, &dial)
}

// describe is an error's text to count it by: without ports and other parts that differ from request to request.
func describe(err error) string {
	var dial *dialError
	var network net.Error
	switch {
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, fasthttp.ErrTimeout):
		return "no whole answer in time"
	case errors.As(err, &dial):
		return dial.Error()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed within the answer"
	case errors.Is(err, io.EOF):
		return "the connection was closed before the answer"
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return fmt.Sprintf("the answer is over %d MiB", maxAnswer>>20)
	}
	return plain(err)
}

// plain is an error's innermost text where package net put the addresses of a connection before it.
func plain(err error) string {
	var number syscall.Errno
	var operation *net.OpError
	if errors.As(err, &operation) {
		if errors.As(err, &number) {
			return operation.Op + ": " + number.Error()
		}
		return operation.Op + ": " + operation.Err.Error()
	}
	const longest = 160
	text := err.Error()
	return text[:min(len(text), longest)]
}
