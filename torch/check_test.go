package torch_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// Check accepts what can be a model and refuses other files with the reason, without loading them.
func TestCheck(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		goldens.Path("modules/negate.pt"):            "",
		goldens.Path("modules/negate.pt2"):           "",
		goldens.Path("../models/photo2ink/model.pt"): "",
		goldens.Path("modules/nan.pt"):               "", // only running it shows what is wrong
		goldens.Path("modules/garbage.pt"):           "neither TorchScript",
		goldens.Path("modules/truncated.pt"):         "neither TorchScript",
		goldens.Path("modules/checkpoint.pth"):       "export it as TorchScript",
		goldens.Path("pictures/jpeg-420.jpg"):        "neither TorchScript",
		empty:                                        "the file is empty",
	} {
		file, err := torch.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = file.Check()
		_ = file.Close()
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		expectKind(t, err, torch.ErrNotAModule)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}
