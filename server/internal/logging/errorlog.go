package logging

import (
	"log"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// errorBurst is how many lines of net/http a second are logged. A client can cause as many as it likes.
const errorBurst = 10

// ErrorLog returns an http.Server's ErrorLog that writes its lines to a log, as warnings.
func ErrorLog(to zerolog.Logger) *log.Logger {
	limited := to.Sample(&zerolog.BurstSampler{Burst: errorBurst, Period: time.Second})
	return log.New(errorWriter{limited}, "", 0)
}

type errorWriter struct{ to zerolog.Logger }

// Write logs one line.
func (w errorWriter) Write(line []byte) (int, error) {
	w.to.Warn().Str("error", strings.TrimSpace(string(line))).Msg("net/http")
	return len(line), nil
}
