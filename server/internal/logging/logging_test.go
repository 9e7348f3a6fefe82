package logging_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/torchherd/torchherd/server/internal/logging"
)

// logged returns what a logger of this format and level writes to a regular file.
func logged(t *testing.T, format, level string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	log, writer, err := logging.NewLog(file, format, level)
	if err != nil {
		t.Fatal(err)
	}
	log.Info().Int("batch", 2).Msg("forward")
	log.Warn().Msg("slow")
	writer.Close(time.Minute)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFormats(t *testing.T) {
	for _, format := range []string{logging.JSON, logging.Auto} {
		line, _, _ := strings.Cut(logged(t, format, "info"), "\n")
		var entry struct {
			Level, Time, Message string
			Batch                int
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level != "info" || entry.Time == "" || entry.Message != "forward" || entry.Batch != 2 {
			t.Errorf("%s: got %q, %v", format, line, err)
		}
	}
	if text := logged(t, logging.Console, "info"); !strings.Contains(text, "forward") || strings.Contains(text, "{") {
		t.Errorf("console: got %q", text)
	}
}

func TestLevel(t *testing.T) {
	if text := logged(t, logging.JSON, "warn"); strings.Contains(text, "forward") || !strings.Contains(text, "slow") {
		t.Errorf("got %q, want the warning only", text)
	}
	if _, _, err := logging.NewLog(os.Stderr, logging.JSON, "loud"); err == nil || !strings.Contains(err.Error(), `unknown log level "loud"`) {
		t.Errorf("got %v", err)
	}
}
