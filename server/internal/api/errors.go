package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/model"
)

// A failure is an answer that isn't a picture.
type failure struct {
	status int
	sanic  int    // the Sanic demo's status for it; 0: the same
	text   string // for the client
}

func (f *failure) Error() string { return f.text }

// statusClientLeft stands in the log for requests whose client had gone before the answer; nobody receives it. The
// number is nginx's.
const statusClientLeft = 499

// The answers that arise here. "I'm too busy", "Too large" and "need rgb image" are the demo's own words.
var (
	errBusy        = &failure{status: http.StatusServiceUnavailable, text: "I'm too busy"}
	errTooLarge    = &failure{status: http.StatusRequestEntityTooLarge, sanic: http.StatusInternalServerError, text: "Too large"}
	errDraining    = &failure{status: http.StatusServiceUnavailable, text: "the server is shutting down: send the picture to another one"}
	errNotReady    = &failure{status: http.StatusServiceUnavailable, text: "the model isn't ready: try again soon"}
	errDeadline    = &failure{status: http.StatusGatewayTimeout, text: "the request's deadline passed before its picture was ready"}
	errClientLeft  = &failure{status: statusClientLeft, text: "the client left"}
	errBadTimeout  = &failure{status: http.StatusBadRequest, text: "X-Request-Timeout must be seconds or a duration above 0, such as 2.5 or 500ms"}
	errBadFormat   = &failure{status: http.StatusBadRequest, text: "no such format: use format=jpeg, png or webp"}
	errModelFailed = &failure{status: http.StatusInternalServerError, text: "the model failed on this picture's batch: the server's log says why, under this answer's X-Request-Id"}
	errInternal    = &failure{status: http.StatusInternalServerError, text: "something went wrong here: the server's log says what, under this answer's X-Request-Id"}
	errNoFile      = &failure{status: http.StatusBadRequest, text: "the form has no file: send one by curl -F file=@photo.jpg"}
	errNotFound    = &failure{status: http.StatusNotFound, text: "nothing is here: send a picture to /image by curl -T photo.jpg"}
	errMethod      = &failure{status: http.StatusMethodNotAllowed, text: "send a picture by PUT or POST: curl -T photo.jpg"}
)

// noSuchVersion is the answer to a path with a version that isn't ready.
func noSuchVersion(version string, served *model.Served) *failure {
	return &failure{status: http.StatusNotFound, text: fmt.Sprintf("version %s of %q isn't served; leave it out of the path for the newest one", version, served.Name())}
}

// The answers to a picture that can't be used; the text is the picture error's own.
var pictureStatuses = map[imagecodec.Reason]int{
	imagecodec.UnknownFormat: http.StatusUnsupportedMediaType,
	imagecodec.Broken:        http.StatusUnprocessableEntity,
	imagecodec.NotRGB:        http.StatusUnprocessableEntity,
	imagecodec.TooManyPixels: http.StatusRequestEntityTooLarge,
}

// explain is the one table from errors to answers. known is false when the error is the server's or the model's
// fault: then the client gets a general text, and the log the error.
func explain(err error) (answer *failure, known bool) {
	var (
		own       *failure
		ofModel   *modelError
		unusable  *imagecodec.Error
		httpError *echo.HTTPError
	)
	switch {
	case errors.As(err, &own):
		return own, true
	case errors.As(err, &unusable):
		return &failure{status: pictureStatuses[unusable.Reason], sanic: http.StatusInternalServerError, text: unusable.Text}, true
	case errors.Is(err, batch.ErrFull):
		return errBusy, true
	case errors.Is(err, batch.ErrClosed):
		return errDraining, true
	case errors.Is(err, context.Canceled):
		return errClientLeft, true
	case errors.As(err, &httpError) && httpError.Code == http.StatusNotFound:
		return errNotFound, true
	case errors.As(err, &httpError) && httpError.Code == http.StatusMethodNotAllowed:
		return errMethod, true
	case errors.As(err, &ofModel):
		return errModelFailed, false
	default:
		return errInternal, false
	}
}

// A modelError is what a batch came to that failed.
type modelError struct{ error }

func (e *modelError) Unwrap() error { return e.error }

// answerError is Echo's error handler.
func (s *Server) answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	answer, known := explain(err)
	if !known {
		event := s.log.Error().Str("request_id", requestID(c)).Err(err)
		var panicked *batch.PanicError
		if errors.As(err, &panicked) {
			event.Bytes("stack", panicked.Stack)
		}
		event.Msg("a request failed")
	}
	status := answer.status
	if s.config.Sanic && answer.sanic != 0 {
		status = answer.sanic
	}
	header := c.Response().Header()
	switch answer {
	case errBusy, errNotReady:
		header.Set("Retry-After", "1")
	case errDraining, errTooLarge: // of the latter the rest isn't read
		header.Set("Connection", "close")
	case errMethod:
		header.Set(echo.HeaderAllow, "PUT, POST")
	}
	stagesOf(c).failure = answer.text
	if err := c.String(status, answer.text); err != nil {
		s.log.Debug().Str("request_id", requestID(c)).Err(err).Msg("an error's answer could not be sent")
	}
}
