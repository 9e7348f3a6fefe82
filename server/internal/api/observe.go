package api

import (
	"crypto/rand"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/servable"
)

// A record is what the log says about a request.
type record struct {
	stages         servable.Stages
	model, version string // that answered; empty: none
	failure        string // the text of a response that isn't an image
	body           tracked
}

type stage struct {
	name     string
	duration time.Duration
}

func stagesOf(s servable.Stages) [5]stage {
	return [...]stage{{"receive", s.Receive}, {"decode", s.Decode}, {"queue", s.Queue}, {"forward", s.Forward}, {"encode", s.Encode}}
}

// serverTiming returns the stages as a Server-Timing header, which browsers show (W3C Server Timing): durations in
// milliseconds, and the batch size as a description.
func serverTiming(s servable.Stages) string {
	var memory [160]byte // enough for all, so that only the string is allocated
	text := memory[:0]
	for _, stage := range stagesOf(s) {
		text = append(append(text, stage.name...), ";dur="...)
		text = strconv.AppendFloat(text, milliseconds(stage.duration), 'f', 3, 64)
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
		c.Response().Header().Set(echo.HeaderXRequestID, id)
		r := &record{body: tracked{request: request}}
		c.Set(recordKey, r)
		if err := next(c); err != nil {
			c.Error(err) // answers it, so that the line has its status
		}
		s.logRequest(c, r, id, time.Since(start))
		s.finishBody(c)
		return nil
	}
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
	for _, stage := range stagesOf(r.stages) {
		if stage.duration > 0 {
			event.Float64(stage.name+"_ms", milliseconds(stage.duration))
		}
	}
	if r.stages.BatchSize > 0 {
		event.Int("batch", r.stages.BatchSize)
	}
	if r.failure != "" {
		event.Str("failure", r.failure)
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
