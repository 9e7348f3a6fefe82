package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// editedYAML returns the text of a model.yaml, which may not exist yet, with these values.
func editedYAML(path string, values []settings.Value) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	text, err = settings.Edit(text, values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// replaceFile replaces the file in one step, since a server may be watching it.
func replaceFile(path string, text []byte) error {
	// In the same folder, so that it can be renamed, and under a name that servers ignore.
	part := path + ".new"
	if err := os.WriteFile(part, text, 0o644); err != nil { //nolint:gosec // settings aren't secret
		return err
	}
	return os.Rename(part, path)
}
