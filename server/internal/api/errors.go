package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/servable"
)

// A failure is a response that isn't an image.
type failure struct {
	status int
	sanic  int    // the Sanic demo's status for it; 0: the same
	text   string // for the client
}

func (f *failure) Error() string { return f.text }

// statusClientClosed is logged for a request whose client left before the response. Nobody receives it. The number is
// nginx's.
const statusClientClosed = 499

// The failures of this package. "I'm too busy" and "Too large" are the demo's own texts.
var (
	errBusy         = &failure{status: http.StatusServiceUnavailable, text: "I'm too busy"}
	errTooLarge     = &failure{status: http.StatusRequestEntityTooLarge, sanic: http.StatusInternalServerError, text: "Too large"}
	errDraining     = &failure{status: http.StatusServiceUnavailable, text: "the server is shutting down: send the image to another one"}
	errNotReady     = &failure{status: http.StatusServiceUnavailable, text: "the model isn't ready: try again soon"}
	errDeadline     = &failure{status: http.StatusGatewayTimeout, text: "the request's deadline passed before its image was ready"}
	errClientClosed = &failure{status: statusClientClosed, text: "the client closed the connection"}
	errBadTimeout   = &failure{status: http.StatusBadRequest, text: "X-Request-Timeout must be seconds or a duration above 0, such as 2.5 or 500ms"}
	errBadFormat    = &failure{status: http.StatusBadRequest, text: "unknown format: use format=jpeg, png or webp"}
	errModelFailed  = &failure{status: http.StatusInternalServerError, text: "the model failed on this image's batch: see the server's log under this response's X-Request-Id"}
	errCrashed      = &failure{status: http.StatusServiceUnavailable, text: "the model's process ended during this image's batch: try again"}
	errCrashesModel = &failure{status: http.StatusUnprocessableEntity, text: "the model crashes on this image"}
	errInternal     = &failure{status: http.StatusInternalServerError, text: "internal error: see the server's log under this response's X-Request-Id"}
	errNoFile       = &failure{status: http.StatusBadRequest, text: "the form has no file: send one by curl -F file=@photo.jpg"}
	errNotFound     = &failure{status: http.StatusNotFound, text: "not found: send an image to /image by curl -T photo.jpg"}
	errMethod       = &failure{status: http.StatusMethodNotAllowed, text: "send an image by PUT or POST: curl -T photo.jpg"}
)

// versionNotServed is the response to a path with a version that isn't ready.
func versionNotServed(version string, model *lifecycle.Model) *failure {
	return &failure{status: http.StatusNotFound, text: fmt.Sprintf("version %s of %q isn't served; omit it from the path for the newest one", version, model.Name())}
}

// imageStatuses are the statuses of responses to unusable images. Their text is the image error's own.
var imageStatuses = map[imagecodec.Reason]int{
	imagecodec.UnknownFormat: http.StatusUnsupportedMediaType,
	imagecodec.Broken:        http.StatusUnprocessableEntity,
	imagecodec.NotRGB:        http.StatusUnprocessableEntity,
	imagecodec.TooManyPixels: http.StatusRequestEntityTooLarge,
}

// explain is the one table from errors to responses. An error matches at most one case: a ModelError hides its cause.
// cause is what to log of an error of the server or the model, of which the client gets a general text; nil: nothing.
func explain(err error) (response *failure, cause error) {
	var (
		own       *failure
		ofModel   *servable.ModelError
		crash     *servable.CrashError
		unusable  *imagecodec.Error
		httpError *echo.HTTPError
	)
	switch {
	case errors.As(err, &own):
		return own, nil
	case errors.As(err, &ofModel):
		return errModelFailed, ofModel.Cause
	case errors.As(err, &crash) && crash.OfImage:
		return errCrashesModel, crash.Cause
	case errors.As(err, &crash):
		return errCrashed, crash.Cause
	case errors.As(err, &unusable):
		return &failure{status: imageStatuses[unusable.Reason], sanic: http.StatusInternalServerError, text: unusable.Text}, nil
	case errors.Is(err, batch.ErrFull):
		return errBusy, nil
	case errors.Is(err, batch.ErrClosed):
		return errDraining, nil
	case errors.Is(err, context.Canceled):
		return errClientClosed, nil
	case errors.As(err, &httpError) && httpError.Code == http.StatusNotFound:
		return errNotFound, nil
	case errors.As(err, &httpError) && httpError.Code == http.StatusMethodNotAllowed:
		return errMethod, nil
	}
	return errInternal, err
}

// respondError is Echo's error handler.
func (s *Server) respondError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	response, cause := explain(err)
	if cause != nil {
		event := s.log.Error().Str("request_id", requestID(c)).Err(cause)
		var panicked *batch.PanicError
		if errors.As(cause, &panicked) {
			event.Bytes("stack", panicked.Stack)
		}
		event.Msg("request failed")
	}
	status := response.status
	if s.config.Sanic && response.sanic != 0 {
		status = response.sanic
	}
	header := c.Response().Header()
	switch response {
	case errBusy, errNotReady, errCrashed:
		header.Set("Retry-After", "1")
	case errDraining, errTooLarge: // after errTooLarge the rest of the body isn't read
		header.Set("Connection", "close")
	case errMethod:
		header.Set(echo.HeaderAllow, "PUT, POST")
	}
	recordOf(c).failure = response.text
	if err := c.String(status, response.text); err != nil {
		s.log.Debug().Str("request_id", requestID(c)).Err(err).Msg("cannot send an error response")
	}
}
