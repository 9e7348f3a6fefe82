package logging_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/torchherd/torchherd/server/internal/logging"
)

// The tail has the last 1,000 lines in their order, and of a long one the beginning.
func TestTail(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	log, writer, err := logging.NewLog(file, logging.JSON, "info")
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(time.Minute)
	log.Info().Msg("first")
	if text := writer.Tail(); !bytes.Contains(text, []byte("first")) {
		t.Errorf("one line: %q", text)
	}
	const lines = 1000
	log.Info().Msg("before")
	for i := range lines {
		log.Info().Int("number", i).Msg("line")
	}
	text := writer.Tail()
	all := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(all) != lines || !strings.Contains(all[0], `"number":0,`) || !strings.Contains(all[lines-1], `"number":999,`) {
		t.Errorf("%d lines, from %q to %q", len(all), all[0], all[len(all)-1])
	}
	log.Info().Str("long", strings.Repeat("x", 1<<16)).Msg("line")
	text = writer.Tail()
	last := text[bytes.LastIndexByte(text[:len(text)-1], '\n')+1:]
	if len(last) != 4096 || !bytes.HasSuffix(last, []byte("x\n")) {
		t.Errorf("the long line has %d bytes", len(last))
	}
}
