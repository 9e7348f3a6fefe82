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

	"github.com/torchherd/torchherd/server/internal/listen"
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

// An address is where a server listens: host:port or unix:PATH.
type address string

var _ encoding.TextUnmarshaler = (*address)(nil)

// UnmarshalText reads an address. An empty one is an error: package net would take it for a port of its own choice on every
// interface, and compose files set empty variables.
func (a *address) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("the address is empty: use host:port, :port or unix:PATH")
	}
	*a = address(text)
	return listen.Check(string(text))
}

// off is the value of --admin-listen that disables the admin API.
const off = "off"

// An adminAddress is an address, or off.
type adminAddress string

var _ encoding.TextUnmarshaler = (*adminAddress)(nil)

// UnmarshalText reads an address or off.
func (a *adminAddress) UnmarshalText(text []byte) error {
	*a = adminAddress(text)
	if *a == off {
		return nil
	}
	return (*address)(a).UnmarshalText(text)
}

// readKey returns the key in a file, without the white space around it; "" for no file.
func readKey(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--admin-key-file: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if len(key) < leastKey {
		return "", fmt.Errorf("--admin-key-file: the key in %s is shorter than %d characters: make one by openssl rand -hex 32", file, leastKey)
	}
	return key, nil
}

// leastKey is the least length of a key, in bytes.
const leastKey = 16

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
