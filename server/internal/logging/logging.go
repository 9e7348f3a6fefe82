// Package logging makes the server's logger, whose lines are written in the background.
package logging

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// These are the log formats.
const (
	Auto    = "auto"    // Console on a terminal, else JSON
	Console = "console" // human-readable
	JSON    = "json"    // one JSON object per line
)

// NewLog returns a logger that writes to a file, for example os.Stderr, and the Writer between them, which the caller must
// Close. The level is one of zerolog's: debug, info, warn or error.
func NewLog(file *os.File, format, level string) (zerolog.Logger, *Writer, error) {
	parsed, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Logger{}, nil, fmt.Errorf("logging: unknown log level %q: use debug, info, warn or error", level)
	}
	if format == Auto {
		format = JSON
		if isatty.IsTerminal(file.Fd()) {
			format = Console
		}
	}
	newLogger := func(out io.Writer) zerolog.Logger {
		if format == Console {
			out = zerolog.ConsoleWriter{Out: out, TimeFormat: time.TimeOnly}
		}
		return zerolog.New(out).With().Timestamp().Logger()
	}
	writer := newWriter(file, func(dropped int) []byte {
		var line bytes.Buffer
		log := newLogger(&line)
		log.Warn().Int("dropped", dropped).Msg("log lines were dropped: the reader of the log doesn't keep up")
		return line.Bytes()
	})
	return newLogger(writer).Level(parsed), writer, nil
}
