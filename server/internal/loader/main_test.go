package loader_test

import (
	"os"
	"testing"

	"github.com/torchherd/torchherd/server/internal/isolation"
)

// TestMain lets this program be the child process of a trial.
func TestMain(m *testing.M) {
	isolation.Main()
	os.Exit(m.Run())
}
