// Package logging makes the server's logger.
package logging

import (
	"fmt"
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

// NewLog returns a logger that writes to a file, for example os.Stderr. The level is one of zerolog's: debug, info, warn or
// error.
func NewLog(file *os.File, format, level string) (zerolog.Logger, error) {
	parsed, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Logger{}, fmt.Errorf("logging: unknown log level %q: use debug, info, warn or error", level)
	}
	if format == Auto {
		format = JSON
		if isatty.IsTerminal(file.Fd()) {
			format = Console
		}
	}
	log := zerolog.New(file)
	if format == Console {
		log = zerolog.New(zerolog.ConsoleWriter{Out: file, TimeFormat: time.TimeOnly})
	}
	return log.Level(parsed).With().Timestamp().Logger(), nil
}
