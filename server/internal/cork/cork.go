// Package cork sends an HTTP response in one write.
//
// The server of net/http has a buffer of 4 KiB for a response, so it sends an image in two writes. That costs a second
// system call and a second TCP segment, and it wakes the client twice. A corked connection buffers the whole response.
package cork

import (
	"context"
	"net"
	"net/http"
)

// limit is the maximum number of bytes that a connection buffers. The cost of a second write is negligible for longer
// responses.
const limit = 64 << 10

// Listener returns a listener whose connections can be corked by Send.
func Listener(inner net.Listener) net.Listener { return listener{inner} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: inner}, nil
}

// A conn is written to by one goroutine at a time: that of net/http, which also runs the handler.
type conn struct {
	net.Conn
	corked   bool
	buffered []byte
}

// NetConn returns the connection that c wraps.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Write(data []byte) (int, error) {
	if c.corked && len(c.buffered)+len(data) <= limit {
		c.buffered = append(c.buffered, data...)
		return len(data), nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.Conn.Write(data)
}

// flush sends the buffered bytes.
func (c *conn) flush() error {
	if len(c.buffered) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buffered)
	c.buffered = c.buffered[:0]
	return err
}

type key struct{}

// Context stores a connection where Send finds it. Use it as an http.Server's ConnContext.
func Context(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, key{}, c)
}

// Send calls write, which must write a whole response with a Content-Length to w, and sends the response in one write. If
// the request's connection isn't a Listener's, or isn't stored by Context, Send only calls write.
func Send(w http.ResponseWriter, r *http.Request, write func() error) error {
	c, ok := r.Context().Value(key{}).(*conn)
	if !ok {
		return write()
	}
	c.corked = true
	err := write()
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	c.corked = false
	if failed := c.flush(); err == nil {
		err = failed
	}
	return err
}
