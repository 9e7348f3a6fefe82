package api

import (
	"crypto/rand"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/rs/zerolog"
)

// stages is what is known of a request: how long its stages took and what became of it.
type stages struct {
	receive, decode, queue, forward, encode time.Duration
	model, version                          string // that the picture went to; empty: none
	batch                                   int    // size of the batch that it was part of; 0: none
	received                                int    // bytes of the picture's file
	failure                                 string // the text of an answer that isn't a picture
}

// header is the stages as a Server-Timing header, which browsers show (W3C Server Timing): durations in
// milliseconds, and the batch's size as a description.
func (t *stages) header() string {
	var memory [160]byte // enough for all, so that only the string is allocated
	text := memory[:0]
	for _, stage := range t.durations() {
		text = append(append(text, stage.name...), ";dur="...)
		text = strconv.AppendFloat(text, milliseconds(stage.took), 'f', 3, 64)
		text = append(text, ", "...)
	}
	text = strconv.AppendInt(append(text, `batch;desc="`...), int64(t.batch), 10)
	return string(append(text, '"'))
}

type stage struct {
	name string
	took time.Duration
}

func (t *stages) durations() [5]stage {
	return [...]stage{{"receive", t.receive}, {"decode", t.decode}, {"queue", t.queue}, {"forward", t.forward}, {"encode", t.encode}}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const (
	stagesKey   = "torchherd.stages"
	maxIDLength = 128
)

// stagesOf returns the record that observe made for this request.
func stagesOf(c echo.Context) *stages {
	if t, ok := c.Get(stagesKey).(*stages); ok {
		return t
	}
	return &stages{}
}

func requestID(c echo.Context) string {
	return c.Response().Header().Get(echo.HeaderXRequestID)
}

// observe gives each request its id (the client's own, or a new one) and writes one line about it when it is done.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		request := c.Request()
		id := request.Header.Get(echo.HeaderXRequestID)
		if id == "" || len(id) > maxIDLength {
			id = rand.Text()
		}
		c.Response().Header().Set(echo.HeaderXRequestID, id)
		t := &stages{}
		c.Set(stagesKey, t)
		if err := next(c); err != nil {
			c.Error(err) // answers it, so that the line has its status
		}
		s.logRequest(c, t, id, time.Since(start))
		return nil
	}
}

func (s *Server) logRequest(c echo.Context, t *stages, id string, took time.Duration) {
	request, response := c.Request(), c.Response()
	event := s.log.WithLevel(level(request.URL.Path, response.Status))
	event.Str("request_id", id).
		Str("method", request.Method).Str("path", request.URL.Path).Str("remote", request.RemoteAddr).
		Int("status", response.Status).
		Int("bytes_in", t.received).Int64("bytes_out", response.Size).
		Float64("ms", milliseconds(took))
	if t.model != "" {
		event.Str("model", t.model).Str("version", t.version)
	}
	for _, stage := range t.durations() {
		if stage.took > 0 {
			event.Float64(stage.name+"_ms", milliseconds(stage.took))
		}
	}
	if t.batch > 0 {
		event.Int("batch", t.batch)
	}
	if t.failure != "" {
		event.Str("failure", t.failure)
	}
	event.Msg("request")
}

// level keeps health checks, which come every few seconds, out of the log unless it is asked to say all.
func level(path string, status int) zerolog.Level {
	if path == "/healthz" || path == "/readyz" {
		return zerolog.DebugLevel
	}
	if status >= 500 && status != 503 {
		return zerolog.WarnLevel
	}
	return zerolog.InfoLevel
}
