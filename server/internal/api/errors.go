package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/labstack/echo/v4"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/listen"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A failure is a response that isn't an image.
type failure struct {
	status int
	sanic  int    // the Sanic demo's status for it; 0: the same
	text   string // for the client
	// retryAfter is when the client may try again; 0: it says nothing about that.
	retryAfter time.Duration
	busy       bool // there was no place or no memory for the request
	reason     *metrics.Reason
}

func (f *failure) Error() string { return f.text }

// statusClientClosed is logged for a request whose client left before the response. Nobody receives it. The number is
// nginx's.
const statusClientClosed = 499

// The failures of this package. "I'm too busy" and "Too large" are the demo's own texts.
var (
	errReceiving    = &failure{status: http.StatusServiceUnavailable, text: "I'm too busy", retryAfter: time.Second, busy: true, reason: metrics.Receiving}
	errTooLarge     = &failure{status: http.StatusRequestEntityTooLarge, sanic: http.StatusInternalServerError, text: "Too large", reason: metrics.TooLarge}
	errDraining     = &failure{status: http.StatusServiceUnavailable, text: "the server is shutting down: send the image to another one", reason: metrics.Draining}
	errNotReady     = &failure{status: http.StatusServiceUnavailable, text: "the model isn't ready: try again soon", retryAfter: time.Second, reason: metrics.NotReady}
	errHung         = &failure{status: http.StatusServiceUnavailable, text: "the model doesn't respond: send the image to another server", retryAfter: restartTime, reason: metrics.Hung}
	errDeadline     = &failure{status: http.StatusGatewayTimeout, text: "the request's deadline passed before its image was ready", reason: metrics.Deadline}
	errClientClosed = &failure{status: statusClientClosed, text: "the client closed the connection", reason: metrics.ClientClosed}
	errBadTimeout   = &failure{status: http.StatusBadRequest, text: "X-Request-Timeout must be seconds or a duration above 0, such as 2.5 or 500ms", reason: metrics.WrongParameter}
	errBadFormat    = &failure{status: http.StatusBadRequest, text: "unknown format: use format=jpeg, png, webp or avif", reason: metrics.WrongParameter}
	errBadQuality   = &failure{status: http.StatusBadRequest, text: "quality must be 1 to 100, such as quality=90", reason: metrics.WrongParameter}
	errBadSize      = &failure{status: http.StatusBadRequest, text: fmt.Sprintf("unknown size: use size=sent, model, or WIDTHxHEIGHT, such as 640x480 (1 to %d a side)", settings.MaxSide), reason: metrics.WrongParameter}
	errModelFailed  = &failure{status: http.StatusInternalServerError, text: "the model failed on this image's batch: see the server's log under this response's X-Request-Id", reason: metrics.ModelFailed}
	errCrashed      = &failure{status: http.StatusServiceUnavailable, text: "the model's process ended during this image's batch: try again", retryAfter: time.Second, reason: metrics.Restarting}
	errCrashesModel = &failure{status: http.StatusUnprocessableEntity, text: "the model crashes on this image", reason: metrics.CrashesModel}
	errInternal     = &failure{status: http.StatusInternalServerError, text: "internal error: see the server's log under this response's X-Request-Id", reason: metrics.Internal}
	errNoFile       = &failure{status: http.StatusBadRequest, text: "the form has no file: send one by curl -F file=@photo.jpg", reason: metrics.WrongPart}
	errNotFound     = &failure{status: http.StatusNotFound, text: "not found: send an image to /image by curl -T photo.jpg", reason: metrics.NotFound}
	errMethod       = &failure{status: http.StatusMethodNotAllowed, text: "send an image by PUT or POST: curl -T photo.jpg", reason: metrics.WrongMethod}
	errHealthMethod = &failure{status: http.StatusMethodNotAllowed, text: "ask for the server's health by GET or HEAD", reason: metrics.WrongMethod}
)

// restartTime is about how long a server takes to be restarted and to load its models.
const restartTime = 10 * time.Second

// busy is the response to an image for which there is no place. The text is the demo's.
func busy(err *batch.BusyError) *failure {
	text, reason := "I'm too busy", metrics.QueueFull
	if errors.Is(err, batch.ErrLate) {
		reason = metrics.TooLate
		text = "I'm too busy: the image would wait longer than the request's time limit"
	}
	return &failure{status: http.StatusServiceUnavailable, text: text, retryAfter: max(err.Drain, time.Second), busy: true, reason: reason}
}

// versionNotServed is the response to a path with a version that isn't ready.
func versionNotServed(version string, model *lifecycle.Model) *failure {
	return &failure{status: http.StatusNotFound, reason: metrics.NotFound, text: fmt.Sprintf("version %s of %q isn't served; omit it from the path for the newest one", version, model.Name())}
}

// imageStatuses are the statuses of responses to unusable images. Their text is the image error's own.
var imageStatuses = map[imagecodec.Reason]struct {
	status int
	reason *metrics.Reason
}{
	imagecodec.UnknownFormat: {http.StatusUnsupportedMediaType, metrics.UnknownFormat},
	imagecodec.Broken:        {http.StatusUnprocessableEntity, metrics.BrokenImage},
	imagecodec.Unsupported:   {http.StatusUnprocessableEntity, metrics.Unsupported},
	imagecodec.NotRGB:        {http.StatusUnprocessableEntity, metrics.Unsupported},
	imagecodec.TooManyPixels: {http.StatusRequestEntityTooLarge, metrics.TooManyPixels},
	imagecodec.TooMuchWork:   {http.StatusUnprocessableEntity, metrics.TooMuchWork},
	imagecodec.TooLong:       {http.StatusUnprocessableEntity, metrics.TooLong},
	imagecodec.NoAlpha:       {http.StatusBadRequest, metrics.WrongParameter},
}

// explain is the one table from errors to responses. An error matches at most one case: a ModelError hides its cause.
// cause is what to log of an error of the server or the model, of which the client gets a general text; nil: nothing.
func explain(err error) (response *failure, cause error) {
	var (
		own       *failure
		ofModel   *servable.ModelError
		crash     *servable.CrashError
		unusable  *imagecodec.Error
		ofPart    *servable.PartError
		full      *batch.BusyError
		tooLarge  *memory.TooLargeError
		hung      *batch.HungError
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
		kind := imageStatuses[unusable.Reason]
		return &failure{status: kind.status, sanic: http.StatusInternalServerError, text: unusable.Text, reason: kind.reason}, nil
	case errors.As(err, &ofPart) && ofPart.Unusable:
		return &failure{status: http.StatusUnprocessableEntity, text: ofPart.Text, reason: metrics.WrongPart}, nil
	case errors.As(err, &ofPart):
		return &failure{status: http.StatusBadRequest, text: ofPart.Text, reason: metrics.WrongPart}, nil
	case errors.As(err, &full):
		return busy(full), nil
	case errors.Is(err, servable.ErrReceiving):
		return errReceiving, nil
	case errors.As(err, &tooLarge):
		return &failure{
			status: http.StatusRequestEntityTooLarge, sanic: http.StatusInternalServerError, reason: metrics.TooMuchMemory,
			text: fmt.Sprintf("decoding the image takes %s of memory, and --max-decode-memory is %s", humanize.IBytes(uint64(tooLarge.Need)), humanize.IBytes(uint64(tooLarge.Size))),
		}, nil
	case errors.Is(err, batch.ErrClosed):
		return errDraining, nil
	case errors.As(err, &hung):
		return errHung, nil // the server logs it once, and exits
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
	path := c.Request().URL.Path
	if response == errMethod && isHealth(path) {
		response = errHealthMethod
	}
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
	if response.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(response.retryAfter.Seconds()))))
	}
	switch response {
	case errDraining, errTooLarge, errHung: // after errTooLarge the rest of the body isn't read
		header.Set("Connection", "close")
	case errMethod, errHealthMethod:
		header.Set(echo.HeaderAllow, allowed(path))
	}
	record := recordOf(c)
	record.failure, record.reason = response.text, response.reason
	if response.busy {
		s.pause(c.Request().Context())
	}
	if err := respondText(c, status, response.text); err != nil {
		s.log.Debug().Str("request_id", requestID(c)).Err(err).Msg("cannot send an error response")
	}
}

// pause waits before a request of a client is refused that has just been refused; see listen.Refused.
func (s *Server) pause(ctx context.Context) {
	pause := listen.Refused(ctx)
	if pause == 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.draining.Done():
	case <-ctx.Done(): // the client has left
	}
}
