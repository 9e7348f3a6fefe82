package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// Memory for a body is taken as its bytes come, not as its length claims, so that a thousand clients that announce
// 4 MiB and send nothing cost little. Most pictures fit into the first piece.
const firstPiece = 256 << 10

// readBody returns the picture's bytes: the body, or the first file of a form. The caller gives them back by
// recycleBody.
func (s *Server) readBody(ctx context.Context, c echo.Context) ([]byte, error) {
	request := c.Request()
	if request.ContentLength > s.config.MaxUpload {
		// Nothing of the body is read, so a client that waits for "100 Continue" sends none of it.
		return nil, errTooLarge
	}
	// The limit is on the whole body, a form's framing included, and holds for chunked bodies too.
	limited := http.MaxBytesReader(c.Response(), request.Body, s.config.MaxUpload)
	source, err := fileIn(request, limited)
	if err != nil {
		return nil, explainRead(ctx, err)
	}
	body, err := s.readAll(source, request.ContentLength)
	if err != nil {
		return nil, explainRead(ctx, err)
	}
	// The deadline was for the body. Left standing, it would look like a client that has gone.
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Time{})
	return body, nil
}

// fileIn returns where the picture's bytes begin: the body itself, or in a form (curl -F) its first file.
func fileIn(request *http.Request, body io.Reader) (io.Reader, error) {
	kind, parameters, err := mime.ParseMediaType(request.Header.Get(echo.HeaderContentType))
	if err != nil || kind != "multipart/form-data" {
		return body, nil //nolint:nilerr // whatever the client calls it, the bytes will tell
	}
	form := multipart.NewReader(body, parameters["boundary"])
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return nil, errNoFile
		}
		if err != nil {
			return nil, err
		}
		if part.FileName() != "" {
			return part, nil
		}
	}
}

// readAll reads to the end into memory that is used again. length is what the client announced, -1 for nothing.
func (s *Server) readAll(source io.Reader, length int64) ([]byte, error) {
	kept, ok := s.bodies.Get().(*[]byte)
	if !ok {
		kept = new([]byte)
	}
	body := (*kept)[:0]
	first := int64(firstPiece)
	if length >= 0 {
		first = min(length+1, firstPiece) // one byte more, to see the end without growing
	}
	if int64(cap(body)) < first {
		body = make([]byte, 0, first)
	}
	for {
		n, err := source.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)] // grows as append does
		}
	}
}

func (s *Server) recycleBody(body []byte) { s.bodies.Put(&body) }

// explainRead gives the failure to read a body its place in the table of answers.
func explainRead(ctx context.Context, err error) error {
	var (
		tooLarge *http.MaxBytesError
		known    *failure
	)
	switch {
	case errors.As(err, &tooLarge):
		return errTooLarge
	case errors.As(err, &known):
		return known
	case errors.Is(err, os.ErrDeadlineExceeded): // the connection's, which is the request's
		return errDeadline
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	// The text of net/http's and multipart's errors says what broke; they have no types to tell them by.
	return &failure{status: http.StatusBadRequest, text: "the body can't be read: " + strings.TrimPrefix(err.Error(), "multipart: ")}
}
