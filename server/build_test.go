package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// The result of `make build` runs from any folder, with an empty environment.
func TestTheBuiltCommandCanBeMoved(t *testing.T) {
	t.Parallel()
	built := goldens.Path("../bin")
	if _, err := os.Stat(filepath.Join(built, "torchherd")); err != nil {
		t.Skip("bin/torchherd is missing; run make build")
	}
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if out, err := exec.CommandContext(t.Context(), "cp", "-R", built, moved).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	command := exec.CommandContext(t.Context(), filepath.Join(moved, "torchherd"), append([]string{"serve"}, serveArguments(nil)...)...)
	command.Env, command.Dir = []string{}, "/"
	s := startCommand(t, command)
	expectImage(t, s.put(photograph(t, "jpeg-420.jpg")))
}
