package api

import (
	"bufio"
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

	"github.com/torchherd/torchherd/server/internal/metrics"
)

// A body reads the image of a request: the request's body, or that of a form (curl -F). Its errors are the
// responses to them.
type body struct {
	ctx    context.Context //nolint:containedctx // lives as long as the request
	c      echo.Context
	whole  *tracked
	source io.Reader // nil until the first Read
	limit  int64
	form   *multipart.Reader // of Next; nil: none
}

// newBody returns the body of a request. Errors: errTooLarge for a body that announces more than limit bytes; nothing of
// it is read, so a client that waits for "100 Continue" sends none of it.
func newBody(ctx context.Context, c echo.Context, limit int64) (*body, error) {
	if c.Request().ContentLength > limit {
		return nil, errTooLarge
	}
	return &body{ctx: ctx, c: c, whole: &recordOf(c).body, limit: limit}, nil
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
	case errors.Is(err, io.EOF) && b.whole.complete():
		// The read deadline was for the body. If it stayed, its end would look like a client that has gone.
		_ = http.NewResponseController(b.c.Response()).SetReadDeadline(time.Time{})
	case err != nil && !errors.Is(err, io.EOF):
		err = b.explain(err)
	}
	return n, err
}

// open finds where the image's bytes begin.
func (b *body) open() error {
	request := b.c.Request()
	// The limit is on the whole body, a form's framing included, and holds for chunked bodies too.
	b.source = http.MaxBytesReader(b.c.Response(), b.whole, b.limit)
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
		image, err := asImage(part)
		if err != nil {
			return err
		}
		if image != nil {
			b.source = image
			return nil
		}
	}
}

// asImage returns a reader of a form's part if the part is the image: if it has a filename or an image's Content-Type, or
// if its bytes aren't text. Otherwise it returns nil. So a form can have text fields before its image, and clients need not
// give the image a name.
func asImage(part *multipart.Part) (io.Reader, error) {
	if part.FileName() != "" || strings.HasPrefix(strings.ToLower(part.Header.Get(echo.HeaderContentType)), "image/") {
		return part, nil
	}
	const enough = 512 // for DetectContentType
	content := bufio.NewReaderSize(part, enough)
	begin, err := content.Peek(enough)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if strings.HasPrefix(http.DetectContentType(begin), "text/") {
		return nil, nil
	}
	return content, nil
}

// Next returns the next part of a form, or a body that isn't one as its only part; see servable.Form.
func (b *body) Next() (string, io.Reader, error) {
	if b.source == nil {
		b.source = http.MaxBytesReader(b.c.Response(), b.whole, b.limit)
		mediaType, parameters, err := mime.ParseMediaType(b.c.Request().Header.Get(echo.HeaderContentType))
		if err != nil || mediaType != "multipart/form-data" {
			return "image", b, nil //nolint:nilerr // as in open
		}
		b.form = multipart.NewReader(b.source, parameters["boundary"])
	}
	if b.form == nil {
		return "", nil, io.EOF
	}
	part, err := b.form.NextPart()
	if errors.Is(err, io.EOF) {
		// What follows the last part is read too, so that the connection can be used again and its deadline is removed.
		if _, err := io.Copy(io.Discard, b); err != nil {
			return "", nil, err
		}
		return "", nil, io.EOF
	}
	if err != nil {
		return "", nil, b.explain(err)
	}
	return part.FormName(), &explained{part, b}, nil
}

// Value returns a parameter of the request's query.
func (b *body) Value(name string) (string, bool) {
	values := b.c.QueryParams()
	return values.Get(name), values.Has(name)
}

// An explained is a part whose errors are responses.
type explained struct {
	part io.Reader
	body *body
}

// Read is the method of io.Reader.
func (e *explained) Read(into []byte) (int, error) {
	n, err := e.part.Read(into)
	if err != nil && !errors.Is(err, io.EOF) {
		err = e.body.explain(err)
	}
	return n, err
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
	return &failure{status: http.StatusBadRequest, reason: metrics.UnreadableBody, text: "cannot read the request body: " + strings.TrimPrefix(err.Error(), "multipart: ")}
}
