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

// A body reads the image of a request: the request's body, or the first file of a form (curl -F). Its errors are the
// responses to them.
type body struct {
	ctx    context.Context //nolint:containedctx // lives as long as the request
	c      echo.Context
	source io.Reader // nil until the first Read
	limit  int64
}

// newBody returns the body of a request. Errors: errTooLarge for a body that announces more than limit bytes; nothing of
// it is read, so a client that waits for "100 Continue" sends none of it.
func newBody(ctx context.Context, c echo.Context, limit int64) (*body, error) {
	if c.Request().ContentLength > limit {
		return nil, errTooLarge
	}
	return &body{ctx: ctx, c: c, limit: limit}, nil
}

// Read is the method of io.Reader.
func (b *body) Read(into []byte) (int, error) {
	if b.source == nil {
		if err := b.open(); err != nil {
			return 0, b.explain(err)
		}
	}
	n, err := b.source.Read(into)
	switch {
	case errors.Is(err, io.EOF):
		// The read deadline was for the body. If it stayed, its end would look like a client that has gone.
		_ = http.NewResponseController(b.c.Response()).SetReadDeadline(time.Time{})
	case err != nil:
		err = b.explain(err)
	}
	return n, err
}

// open finds where the image's bytes begin.
func (b *body) open() error {
	request := b.c.Request()
	// The limit is on the whole body, a form's framing included, and holds for chunked bodies too.
	b.source = http.MaxBytesReader(b.c.Response(), request.Body, b.limit)
	mediaType, parameters, err := mime.ParseMediaType(request.Header.Get(echo.HeaderContentType))
	if err != nil || mediaType != "multipart/form-data" {
		return nil //nolint:nilerr // the format is found from the bytes, whatever the client calls it
	}
	form := multipart.NewReader(b.source, parameters["boundary"])
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return errNoFile
		}
		if err != nil {
			return err
		}
		if part.FileName() != "" {
			b.source = part
			return nil
		}
	}
}

// explain returns the response to a failed read.
func (b *body) explain(err error) error {
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
	case b.ctx.Err() != nil:
		return context.Cause(b.ctx)
	}
	// The errors of net/http and multipart have no types of their own; their text says what is wrong.
	return &failure{status: http.StatusBadRequest, text: "cannot read the request body: " + strings.TrimPrefix(err.Error(), "multipart: ")}
}
