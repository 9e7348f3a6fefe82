package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/torchherd/torchherd/server/internal/cork"
	"github.com/torchherd/torchherd/server/internal/listen"
)

const (
	// maxRest is the longest rest of a body that is read after the response to keep its connection. A longer one costs
	// more than a new connection.
	maxRest = 1 << 20
	// restTime limits how long that may take, if Config.RequestTimeout isn't shorter.
	restTime = 5 * time.Second
)

// A tracked body is a request's body that knows how much of it is left.
//
// A response may be sent before its request has been read to the end: a refusal, or the image of a form whose file is
// complete. net/http then reads on before it sends the response, and waits for a client that stalls. Here, the response
// comes first. Its connection is kept if the rest is short and arrives soon; otherwise package listen closes it.
type tracked struct {
	request *http.Request
	read    int64
	ended   bool
	failed  bool // by an error: where the next request begins is unknown
}

// Read is the method of io.Reader.
func (b *tracked) Read(into []byte) (int, error) {
	n, err := b.request.Body.Read(into)
	b.read += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		b.ended = true
	case err != nil:
		b.failed = true
	}
	return n, err
}

// Close is the method of io.Closer. net/http closes the request's body.
func (*tracked) Close() error { return nil }

// complete reports whether the body has been read to its end.
func (b *tracked) complete() bool { return b.ended || b.request.Body == http.NoBody }

// keeps reports whether the request allows to keep the connection.
//
// A chunked request doesn't. It may have had a Content-Length too, which net/http ignores and hides. A proxy that went by
// it would take what follows the last chunk for a part of the same request, so the server must close (RFC 9112, section
// 6.3).
func (b *tracked) keeps() bool {
	r := b.request
	switch {
	case b.failed, r.ContentLength < 0:
		return false
	case b.complete():
		return true // unless the client wants to close
	}
	awaitsContinue := b.read == 0 && r.Header.Get("Expect") != ""
	return !r.Close && r.ProtoAtLeast(1, 1) && !awaitsContinue && r.ContentLength-b.read <= maxRest
}

// respond sends a whole response.
func respond(c echo.Context, status int, contentType string, text []byte) error {
	recordOf(c).setHeader(c.Response().Header(), echo.HeaderContentLength, strconv.Itoa(len(text)))
	prepare(c)
	return cork.Send(c.Response(), c.Request(), func() error { return c.Blob(status, contentType, text) })
}

// prepare makes net/http send the response before it has read the request's body, and close the connection if that must
// not be kept. It must be called before the header is written.
func prepare(c echo.Context) {
	w, body := c.Response(), &recordOf(c).body
	if !body.complete() {
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	if !body.keeps() && w.Header().Get("Connection") == "" {
		w.Header().Set("Connection", "close")
	}
}

// finishBody reads the rest of the request's body after its response was sent, or closes the connection.
func (s *Server) finishBody(c echo.Context) {
	if body := &recordOf(c).body; !body.complete() {
		w := c.Response()
		connection := http.NewResponseController(w)
		sent := connection.Flush() == nil
		if !sent || w.Header().Get("Connection") == "close" || !s.readOn(connection, body) {
			// net/http must neither wait for the rest nor take it for the next request.
			_ = connection.SetReadDeadline(past)
			panic(http.ErrAbortHandler)
		}
	}
	listen.Complete(c.Request().Context())
}

// readOn reads the rest of the body. It reports whether the rest was short and arrived in time and before the server began
// to drain.
func (s *Server) readOn(connection *http.ResponseController, body *tracked) bool {
	limit := restTime
	if own := s.config.RequestTimeout; own > 0 {
		limit = min(limit, own)
	}
	if connection.SetReadDeadline(time.Now().Add(limit)) != nil {
		return false
	}
	stop := context.AfterFunc(s.draining, func() { _ = connection.SetReadDeadline(past) })
	defer stop()
	return listen.Discard(body.request.Context(), body, body.request.ContentLength-body.read) == nil
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)
