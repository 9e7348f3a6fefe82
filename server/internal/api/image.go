package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/torchherd/torchherd/server/internal/cork"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/model"
)

// versionHeader tells a client which version of the model answered.
const versionHeader = "X-Model-Version"

// image takes a picture through the model: receive, decode, queue and forward, encode, answer.
func (s *Server) image(c echo.Context) error {
	if !s.gate.enter() {
		return errDraining
	}
	defer s.gate.leave()
	version, err := s.acquire(c)
	if err != nil {
		return err
	}
	defer version.Release()
	c.Response().Header().Set(versionHeader, version.String())
	t := stagesOf(c)
	t.model, t.version = version.ModelName(), version.String()
	format, err := answerFormat(c.Request(), version.Format())
	if err != nil {
		return err
	}
	ctx, cancel, err := s.deadline(c)
	if err != nil {
		return err
	}
	defer cancel()
	// From here on, other requests may wait for this one's picture.
	arrival := version.Arrive()
	defer arrival.Leave()

	input, err := s.receive(ctx, c, t, version)
	if err != nil {
		return err
	}
	reply, err := arrival.Submit(ctx, input)
	if err != nil {
		return &modelError{err} // the picture may still be in a running batch, so its memory isn't used again
	}
	codec := version.Codec()
	codec.Recycle(input.Pixels)
	t.queue, t.forward, t.batch = reply.Queue, reply.Run, reply.BatchSize

	start := time.Now()
	file, err := codec.Encode(ctx, reply.Result, format)
	if err != nil {
		return err
	}
	t.encode = time.Since(start)
	codec.Recycle(reply.Result.Pixels)
	defer codec.Recycle(file)

	header := c.Response().Header()
	header.Set("Server-Timing", t.header())
	header.Set(echo.HeaderContentLength, strconv.Itoa(len(file)))
	return cork.Send(c.Response(), c.Request(), func() error {
		return c.Blob(http.StatusOK, format.ContentType(), file)
	})
}

// acquire returns the version that the path names: of the default model if it names none, the newest if it names a
// model alone.
func (s *Server) acquire(c echo.Context) (*model.Version, error) {
	served := s.models.Default()
	if name := c.Param("model"); name != "" {
		var err error
		if served, err = s.models.Find(name); err != nil {
			return nil, &failure{status: http.StatusNotFound, text: err.Error()}
		}
	}
	if text := c.Param("version"); text != "" {
		number, err := strconv.Atoi(text)
		if err == nil {
			var version *model.Version
			if version, err = served.AcquireVersion(number); err == nil {
				return version, nil
			}
		}
		return nil, noSuchVersion(text, served)
	}
	version, err := served.Acquire()
	if err != nil {
		return nil, errNotReady
	}
	return version, nil
}

// receive reads the body and decodes it.
func (s *Server) receive(ctx context.Context, c echo.Context, t *stages, version *model.Version) (imagecodec.Image, error) {
	start := time.Now()
	body, err := s.readBody(ctx, c)
	t.receive = time.Since(start)
	if err != nil {
		return imagecodec.Image{}, err
	}
	defer s.recycleBody(body)
	t.received = len(body)
	// Decoding is most of the work that isn't the model's. When the queue is full now, the next batch is complete
	// already, and this picture would most likely be refused after all that work.
	if version.Full() {
		return imagecodec.Image{}, errBusy
	}
	start = time.Now()
	input, err := version.Codec().Decode(ctx, body)
	t.decode = time.Since(start)
	return input, err
}

// deadline returns the request's context with its time limit: the server's, or the client's own if that is
// shorter. The limit holds for reading the body as well.
func (s *Server) deadline(c echo.Context) (context.Context, context.CancelFunc, error) {
	request := c.Request()
	limit := s.config.RequestTimeout
	if text := request.Header.Get("X-Request-Timeout"); text != "" {
		own, err := parseTimeout(text)
		if err != nil {
			return nil, nil, err
		}
		if limit == 0 || own < limit {
			limit = own
		}
	}
	if limit == 0 {
		return request.Context(), func() {}, nil
	}
	until := time.Now().Add(limit)
	ctx, cancel := context.WithDeadlineCause(request.Context(), until, errDeadline)
	// A connection that knows no deadlines (none of net/http's) only loses the limit on its body.
	_ = http.NewResponseController(c.Response()).SetReadDeadline(until)
	return ctx, cancel, nil
}

// parseTimeout reads seconds ("0.5", "30") or a duration with its unit ("500ms").
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
