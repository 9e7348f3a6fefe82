package cli

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/alecthomas/kong"
)

// Debug is the subcommand debug.
type Debug struct {
	Bundle debugBundle `cmd:"" help:"Collect what a report of a problem needs from a running server into one file: versions, settings, models, metrics, goroutines, profiles, the last log lines."`
}

type debugBundle struct {
	adminAPI
	Output  string        `short:"o" type:"path" default:"torchherd-debug.tar.gz" help:"The file to write." placeholder:"FILE"`
	Profile time.Duration `default:"10s" help:"Duration of the profile of the processor, 1s to 25s."`
}

// Validate returns an error for a value out of range; kong calls it.
func (b *debugBundle) Validate() error {
	if b.Profile < time.Second || b.Profile > 25*time.Second {
		return errors.New("--profile must be 1s to 25s")
	}
	return nil
}

// Run writes the bundle. What the server doesn't give is left out, with the reason in errors.txt.
func (b *debugBundle) Run(p program) error {
	status, metrics, err := b.send(http.MethodGet, "/metrics")
	switch { // without metrics, nothing else can be had either
	case err != nil:
		return err
	case status != http.StatusOK:
		return fmt.Errorf("call the admin API: %d %s; is %s the server's --admin-listen?", status, http.StatusText(status), b.AdminListen)
	}
	_, _ = fmt.Fprintf(p.err, "profiling for %v...\n", b.Profile)
	files := []bundled{{"metrics.txt", metrics}}
	var failures []byte
	for _, each := range []struct{ name, path string }{
		{"settings.json", "/debug/settings"},
		{"models.json", "/models"},
		{"goroutines.txt", "/debug/pprof/goroutine?debug=2"},
		{"cpu.pprof", fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(b.Profile/time.Second))},
		{"heap.pprof", "/debug/pprof/heap"},
		{"mutex.pprof", "/debug/pprof/mutex"},
		{"goroutine-leaks.txt", "/debug/pprof/goroutineleak?debug=2"}, // where Go has it
		{"log.txt", "/debug/log"},
	} {
		status, content, err := b.send(http.MethodGet, each.path)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, http.StatusText(status))
		}
		if err != nil {
			failures = fmt.Appendf(failures, "%s: %v\n", each.name, err)
			continue
		}
		files = append(files, bundled{each.name, content})
	}
	if len(failures) > 0 {
		files = append(files, bundled{"errors.txt", failures})
	}
	if err := writeBundle(b.Output, files); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	_, err = fmt.Fprintln(p.out, b.Output)
	return err
}

type bundled struct {
	name    string
	content []byte
}

// writeBundle writes a file as a whole, or not at all.
func writeBundle(path string, files []bundled) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".torchherd-debug-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary.Name())
		}
	}()
	err = errors.Join(pack(temporary, files), temporary.Close())
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

func pack(to io.Writer, files []bundled) error {
	compressed := gzip.NewWriter(to)
	archive := tar.NewWriter(compressed)
	for _, file := range files {
		head := tar.Header{Name: "torchherd-debug/" + file.name, Mode: 0o644, Size: int64(len(file.content)), ModTime: time.Now()}
		if err := archive.WriteHeader(&head); err != nil {
			return err
		}
		if _, err := archive.Write(file.content); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), compressed.Close())
}

// A flagValues has the values of a command's flags by their names, as the command sees them. No flag is a secret: keys are in
// files, which flags name.
type flagValues map[string]any

func valuesOf(context *kong.Context) flagValues {
	values := flagValues{}
	for _, flag := range context.Flags() {
		if value := context.FlagValue(flag); flag.Name != "help" {
			values[flag.Name] = value
		}
	}
	return values
}
