package api

import (
	"crypto/rand"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/servable"
)

// A record is what the log and the metrics say about a request.
type record struct {
	stages         servable.Stages
	model, version string          // that answered; empty: none
	failure        string          // the text of a response that isn't an image
	reason         *metrics.Reason // of that; nil: an image
	body           tracked

	values  [4]string // of setHeader
	headers int       // that have one
}

// setHeader sets a header of the response, whose name must be in canonical form. It takes the memory for the value's slice
// from the record, since http.Header.Set would allocate it.
func (r *record) setHeader(of http.Header, name, value string) {
	if r.headers == len(r.values) {
		of.Set(name, value)
		return
	}
	r.values[r.headers] = value
	of[name] = r.values[r.headers : r.headers+1 : r.headers+1]
	r.headers++
}

// stagesOf returns the durations of the stages, in the order of metrics.StageNames.
func stagesOf(s servable.Stages) [metrics.Stages]time.Duration {
	return [...]time.Duration{s.Receive, s.Decode, s.Queue, s.Forward, s.Encode}
}

// serverTiming returns the stages as a Server-Timing header, which browsers show (W3C Server Timing): durations in
// milliseconds, and the batch size as a description.
func serverTiming(s servable.Stages) string {
	var memory [160]byte // enough for all, so that only the string is allocated
	text := memory[:0]
	for i, took := range stagesOf(s) {
		text = append(append(text, metrics.StageNames[i]...), ";dur="...)
		text = strconv.AppendFloat(text, milliseconds(took), 'f', 3, 64)
		text = append(text, ", "...)
	}
	text = strconv.AppendInt(append(text, `batch;desc="`...), int64(s.BatchSize), 10)
	return string(append(text, '"'))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const (
	recordKey   = "torchherd.record"
	maxIDLength = 128
)

// recordOf returns the record that observe made for this request.
func recordOf(c echo.Context) *record {
	if r, ok := c.Get(recordKey).(*record); ok {
		return r
	}
	return &record{body: tracked{request: c.Request()}}
}

func requestID(c echo.Context) string {
	return c.Response().Header().Get(echo.HeaderXRequestID)
}

// observe gives each request its id (the client's own, or a new one) and logs one line about it when it is done. What
// remains of the request's body is read after that.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		request := c.Request()
		id := request.Header.Get(echo.HeaderXRequestID)
		if id == "" || len(id) > maxIDLength {
			id = rand.Text()
		}
		r := &record{body: tracked{request: request}}
		c.Set(recordKey, r)
		r.setHeader(c.Response().Header(), echo.HeaderXRequestID, id)
		if err := next(c); err != nil {
			c.Error(err) // answers it, so that the line has its status
		}
		elapsed := time.Since(start)
		s.logRequest(c, r, id, elapsed)
		s.count(c, r, elapsed)
		s.finishBody(c)
		return nil
	}
}

// count counts a request, unless it is a health check.
func (s *Server) count(c echo.Context, r *record, elapsed time.Duration) {
	if isHealth(c.Request().URL.Path) || c.Request().Method == http.MethodOptions {
		return
	}
	s.config.Metrics.Request(&metrics.Request{
		Model: r.model, Version: r.version, Reason: r.reason, Duration: elapsed, Received: int64(r.stages.Received), Sent: c.Response().Size,
		Stages: stagesOf(r.stages),
	})
}

func (s *Server) logRequest(c echo.Context, r *record, id string, elapsed time.Duration) {
	request, response := c.Request(), c.Response()
	event := s.log.WithLevel(level(request.URL.Path, response.Status))
	event.Str("request_id", id).
		Str("method", request.Method).Str("path", request.URL.Path).Str("remote", request.RemoteAddr).
		Int("status", response.Status).
		Int("bytes_in", r.stages.Received).Int64("bytes_out", response.Size).
		Float64("ms", milliseconds(elapsed))
	if r.model != "" {
		event.Str("model", r.model).Str("version", r.version)
	}
	for i, took := range stagesOf(r.stages) {
		if took > 0 {
			event.Float64(metrics.StageNames[i]+"_ms", milliseconds(took))
		}
	}
	if r.stages.BatchSize > 0 {
		event.Int("batch", r.stages.BatchSize)
	}
	if r.failure != "" {
		event.Str("failure", r.failure)
	}
	if r.reason != nil {
		event.Str("reason", r.reason.Name)
	}
	event.Msg("request")
}

// level keeps health checks, which come every few seconds, out of the log except at level debug.
func level(path string, status int) zerolog.Level {
	if isHealth(path) {
		return zerolog.DebugLevel
	}
	if status >= 500 && status != 503 {
		return zerolog.WarnLevel
	}
	return zerolog.InfoLevel
}
