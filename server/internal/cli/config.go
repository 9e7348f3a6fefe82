package cli

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml"
)

// bytesFlag is a number of bytes, written with or without a unit: 4MiB, 500kB, 1048576.
type bytesFlag int64

var _ encoding.TextUnmarshaler = (*bytesFlag)(nil)

func (b *bytesFlag) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<40 {
		return fmt.Errorf("%q is no size; write it like 4MiB", text)
	}
	*b = bytesFlag(n)
	return nil
}

// loadYAML reads a config file: a flat map from flags' names to values. It is a kong.ConfigurationLoader.
func loadYAML(file io.Reader) (kong.Resolver, error) {
	settings := map[string]any{}
	if err := yaml.NewDecoder(file).Decode(&settings); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("config file: %s", yaml.FormatError(err, false, true))
	}
	return &fileResolver{settings: settings}, nil
}

// fileResolver looks flags up in a config file.
type fileResolver struct{ settings map[string]any }

// Validate refuses keys that are no flag's name: a misspelt one would otherwise be ignored for ever. The flags are
// those of the command that takes a config file.
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
	for key := range r.settings {
		if !slices.Contains(known, key) {
			return fmt.Errorf("config file: there is no setting %q; there are: %s", key, strings.Join(known, ", "))
		}
	}
	return nil
}

// Resolve gives a flag its value of the file, nil if it has none there or the environment has one, which wins.
func (r *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil //nolint:nilnil // kong's way to say that there is nothing
		}
	}
	value, set := r.settings[flag.Name]
	if !set {
		return nil, nil //nolint:nilnil // likewise
	}
	return fmt.Sprint(value), nil
}
