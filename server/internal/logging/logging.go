// Package logging makes what the server tells of itself.
package logging

import (
	"fmt"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// Formats of the log.
const (
	Auto    = "auto"    // Console on a terminal, else JSON
	Console = "console" // for people
	JSON    = "json"    // one object a line
)

// NewLog makes a logger that writes to a file, such as os.Stderr. level is one of zerolog's: debug, info, warn, error.
func NewLog(file *os.File, format, level string) (zerolog.Logger, error) {
	parsed, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Logger{}, fmt.Errorf("logging: no such log level: %q", level)
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
