package cli

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// A bytesFlag is a number of bytes, with or without a unit: 4MiB, 500kB, 1048576.
type bytesFlag int64

var _ encoding.TextUnmarshaler = (*bytesFlag)(nil)

// UnmarshalText reads a number of bytes.
func (b *bytesFlag) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<40 {
		return fmt.Errorf("invalid number of bytes %q: use a number with a unit, such as 4MiB", text)
	}
	*b = bytesFlag(n)
	return nil
}

// loadYAML reads a config file, a flat map from flag names to values. It is a kong.ConfigurationLoader.
func loadYAML(file io.Reader) (kong.Resolver, error) {
	values := map[string]any{}
	if err := yaml.NewDecoder(file).Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("config file: %s", yaml.FormatError(err, false, true))
	}
	return &fileResolver{values: values}, nil
}

// A fileResolver looks up flags in a config file.
type fileResolver struct{ values map[string]any }

// Validate returns an error for a key that is not a flag of a command with a config file. Otherwise a misspelt key would be
// ignored.
func (r *fileResolver) Validate(app *kong.Application) error {
	var known []string
	for _, command := range app.Children {
		names := make([]string, 0, len(command.Flags))
		for _, flag := range command.Flags {
			names = append(names, flag.Name)
		}
		if at := slices.Index(names, "config"); at >= 0 {
			known = append(known, slices.Delete(names, at, at+1)...)
		}
	}
	for key := range r.values {
		if !slices.Contains(known, key) {
			return fmt.Errorf("config file: %w", settings.UnknownKey(key, known))
		}
	}
	return nil
}

// Resolve returns a flag's value in the file. It returns nil if there is none, or if the environment has one: that wins.
func (r *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil //nolint:nilnil // nil is how kong expects "no value"
		}
	}
	value, set := r.values[flag.Name]
	if !set {
		return nil, nil //nolint:nilnil // as above
	}
	return fmt.Sprint(value), nil
}
