package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// readAhead is more than net/http may have read from a connection beyond what its handler has read (4 KiB).
const readAhead = 16 << 10

// discards holds buffers of lingerBuffer bytes.
var discards = sync.Pool{New: func() any { return new([lingerBuffer]byte) }}

// Discard reads body to its end and drops what it reads. body is a request's body, of which length bytes haven't been read.
// ctx is the request's. Where the system can, the bytes never leave the kernel: with photographs, copying them is most of
// what a refusal costs. After an error, which is one of body's Read, the connection must be closed.
func Discard(ctx context.Context, body io.Reader, length int64) error {
	if c, ok := ctx.Value(key{}).(*Conn); ok && length > readAhead {
		// Less than readAhead bytes of the rest have been read from the connection. What follows the body isn't dropped.
		c.unwanted = length - readAhead
	}
	buffer, _ := discards.Get().(*[lingerBuffer]byte)
	defer discards.Put(buffer)
	for {
		switch _, err := body.Read(buffer[:]); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Read is the method of net.Conn. The content of what Discard drops is undefined.
func (c *Conn) Read(into []byte) (int, error) {
	if c.unwanted == 0 {
		return c.Conn.Read(into)
	}
	n, err := drop(c.Conn, into[:min(int64(len(into)), c.unwanted)])
	c.unwanted -= int64(n)
	return n, err
}

// drop is conn.Read, but may leave the content of into as it is.
func drop(conn net.Conn, into []byte) (int, error) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return dropTCP(tcp, into)
	}
	return conn.Read(into)
}
