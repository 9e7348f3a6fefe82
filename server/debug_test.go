package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/server/internal/cli"
)

// unpacked returns the files of a bundle by their names.
func unpacked(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	uncompressed, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(uncompressed); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(head.Name, "torchherd-debug/")] = string(content)
	}
}

// A bundle has what a report of a problem needs, from a server that asks for a key, and the key isn't in it.
func TestDebugBundle(t *testing.T) {
	t.Parallel()
	const key = "a key that nobody guesses"
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startProcess(t, "--admin-key-file", keyFile, "--max-wait", "7ms", module("negate.pt"))
	s.put([]byte("no image"))
	path := filepath.Join(t.TempDir(), "bundle.tar.gz")
	address := strings.TrimPrefix(s.admin.url, "http://")
	var out, problems bytes.Buffer
	arguments := []string{"debug", "bundle", "--admin-listen", address, "--output", path, "--profile", "1s"}
	if status := cli.Run("test", arguments, &out, &problems); status != 1 || !strings.Contains(problems.String(), "401") {
		t.Errorf("without a key: status %d, %s", status, problems.String())
	}
	if status := cli.Run("test", append(arguments, "--admin-key-file", keyFile), &out, &problems); status != 0 || out.String() != path+"\n" {
		t.Fatalf("status %d, %s, %s", status, out.String(), problems.String())
	}
	files := unpacked(t, path)
	for name, part := range map[string]string{
		"metrics.txt": "torchherd_build_info{", "models.json": `"negate"`, "goroutines.txt": "goroutine 1 ", "log.txt": `"reason":"unknown_format"`,
		"settings.json": keyFile,
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s has no %q: %q", name, part, files[name][:min(len(files[name]), 300)])
		}
	}
	var settings map[string]any
	if err := json.Unmarshal([]byte(files["settings.json"]), &settings); err != nil || settings["max-wait"] == nil {
		t.Errorf("settings: %v, %v", settings, err)
	}
	for _, name := range []string{"cpu.pprof", "heap.pprof", "mutex.pprof"} {
		if !strings.HasPrefix(files[name], "\x1f\x8b") { // profiles are compressed
			t.Errorf("%s: %q", name, files[name][:min(len(files[name]), 20)])
		}
	}
	for name, content := range files {
		if strings.Contains(content, key) {
			t.Errorf("the key is in %s", name)
		}
	}
}

// The profiles are where Go's tools look for them, on the admin address only.
func TestProfiles(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	for path, part := range map[string]string{"/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile:", "/debug/pprof/symbol": "num_symbols"} {
		if r := s.admin.do(http.MethodGet, path, nil); r.status != 200 || !bytes.Contains(r.body, []byte(part)) {
			t.Errorf("%s: %d, %.100s", path, r.status, r.body)
		}
		if r := s.do(http.MethodGet, path, nil); r.status != 404 {
			t.Errorf("%s at the images' address: %d", path, r.status)
		}
	}
	if r := s.admin.do(http.MethodGet, "/debug/pprof/nothing", nil); r.status != 404 {
		t.Errorf("an unknown profile: %d", r.status)
	}
}
