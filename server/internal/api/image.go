package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/listen"
	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/servable"
)

// versionHeader names the version of the model that answered.
const versionHeader = "X-Model-Version"

// image answers PUT and POST of an image.
func (s *Server) image(c echo.Context) error {
	if !s.gate.enter() {
		return errDraining
	}
	defer s.gate.leave()
	lease, err := s.acquire(c)
	if err != nil {
		return err
	}
	defer lease.Release()
	header := c.Response().Header()
	record := recordOf(c)
	record.setHeader(header, versionHeader, lease.Version)
	record.model, record.version = lease.Model(), lease.Version
	format, err := responseFormat(c.Request(), lease.DefaultFormat())
	if err != nil {
		return err
	}
	quality, err := responseQuality(c.Request())
	if err != nil {
		return err
	}
	size, err := s.answerSize(c.Request())
	if err != nil {
		return err
	}
	ctx, cancel, err := s.deadline(c)
	if err != nil {
		return err
	}
	defer cancel()
	body, err := newBody(ctx, c, s.config.MaxUpload)
	if err != nil {
		return err
	}
	options := servable.Options{Length: c.Request().ContentLength, Format: format, Quality: quality, Size: size}
	watched := s.watch(lease)
	response, err := watched.process(ctx, body, options)
	record.stages = response.Stages
	if err != nil {
		return err
	}
	defer response.Release()
	listen.Accepted(c.Request().Context())
	record.setHeader(header, "Server-Timing", serverTiming(response.Stages))
	err = respond(c, http.StatusOK, format.ContentType(), response.Body)
	watched.answered()
	return err
}

// acquire returns a lease of the version that the path names: of the default model if it names none, and the newest one
// if it names a model alone.
func (s *Server) acquire(c echo.Context) (lifecycle.Lease, error) {
	model := s.models.Default()
	if name := c.Param("model"); name != "" {
		var err error
		if model, err = s.models.Find(name); err != nil {
			return lifecycle.Lease{}, &failure{status: http.StatusNotFound, reason: metrics.NotFound, text: err.Error()}
		}
	}
	if text := c.Param("version"); text != "" {
		number, err := strconv.Atoi(text)
		if err == nil {
			var lease lifecycle.Lease
			if lease, err = model.AcquireVersion(number); err == nil {
				return lease, nil
			}
		}
		return lifecycle.Lease{}, versionNotServed(text, model)
	}
	var lease lifecycle.Lease
	var err error
	if following, ok := s.config.Rollouts[model.Name()]; ok {
		lease, err = following.Acquire(s.stickyKey(c.Request()))
	} else {
		lease, err = model.Acquire()
	}
	if err != nil {
		return lifecycle.Lease{}, errNotReady
	}
	return lease, nil
}

// deadline returns the request's context with its time limit: the server's, or the client's own if that is shorter. The
// limit holds for reading the body as well.
func (s *Server) deadline(c echo.Context) (context.Context, context.CancelFunc, error) {
	request := c.Request()
	parent, release := connected(request)
	limit := s.config.RequestTimeout
	if text := request.Header.Get("X-Request-Timeout"); text != "" {
		own, err := parseTimeout(text)
		if err != nil {
			release()
			return nil, nil, err
		}
		if limit == 0 || own < limit {
			limit = own
		}
	}
	if limit == 0 {
		return parent, release, nil
	}
	deadline := time.Now().Add(limit)
	ctx, cancel := context.WithDeadlineCause(parent, deadline, errDeadline)
	// A connection without deadlines (net/http's all have them) only loses the limit on its body.
	_ = http.NewResponseController(c.Response()).SetReadDeadline(deadline)
	if !request.Close {
		return ctx, cancel, nil
	}
	return ctx, func() { cancel(); release() }, nil
}

// connected returns a context that ends when the client has gone. The caller must call release.
//
// net/http ends a request's context when the client closes its sending half, because the kernel doesn't tell that from a
// closed socket. socat and nc -N close it after their request and wait for the response. They send one request only, by
// HTTP/1.0 or with Connection: close. So the end of the input isn't taken for the client's end after such a request, and
// only a reset connection is. If the client has gone all the same, one image is processed in vain.
func connected(request *http.Request) (_ context.Context, release func()) {
	if !request.Close {
		return request.Context(), func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(request.Context()))
	stop := context.AfterFunc(request.Context(), func() {
		if listen.Reset(ctx) {
			cancel()
		}
	})
	return ctx, func() { stop(); cancel() }
}

// parseTimeout reads seconds ("0.5", "30") or a duration with a unit ("500ms").
func parseTimeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	if err != nil || d <= 0 {
		return 0, errBadTimeout
	}
	return d, nil
}
