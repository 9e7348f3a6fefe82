package main

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

// newModelFolder makes the folder of a model named net. files maps the names of its files to modules in testdata, and
// model.yaml to its text.
func newModelFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "net")
	for name, content := range files {
		if name == "model.yaml" {
			putSettings(t, folder, content)
			continue
		}
		putModel(t, filepath.Join(folder, name), content)
	}
	return folder
}

func putModel(t *testing.T, path, name string) {
	t.Helper()
	putFile(t, path, goldens.Read(t, "modules/"+name))
}

func putSettings(t *testing.T, folder, text string) {
	t.Helper()
	putFile(t, filepath.Join(folder, "model.yaml"), []byte(text))
}

// putFile replaces a file in one step, as mv does.
func putFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// The policy in model.yaml selects the versions that serve. Requests that name no version get the newest.
func TestVersionsOfAFolder(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt", "2/model.pt": "identity.pt", "4/model.pt": "gray.pt"})
	s := start(t, folder)
	photo := photograph(t, "jpeg-420.jpg")
	expectVersion(t, s.put(photo), 4)
	expectVersion(t, s.putTo("/image/net/versions/4", photo), 4)
	expectError(t, s.putTo("/image/net/versions/2", photo), 404, `version 2 of "net" isn't served`)
	expectError(t, s.putTo("/image/net/versions/x", photo), 404, `version x of "net" isn't served`)
	expectError(t, s.putTo("/image/other", photo), 404, `model "other" not found; available: "net"`)

	putSettings(t, folder, "versions: latest 2\n")
	s.reload()
	expectVersion(t, s.putTo("/image/net", photo), 4)
	identity := expectVersion(t, s.putTo("/image/net/versions/2", photo), 2)

	putSettings(t, folder, "versions: [1, 2]\n")
	s.reload()
	s.awaitDrained("net")
	expectVersion(t, s.put(photo), 2)
	if negated := expectVersion(t, s.putTo("/image/net/versions/1", photo), 1); bytes.Equal(identity, negated) {
		t.Error("version 1 responds like version 2")
	}
	expectError(t, s.putTo("/image/net/versions/4", photo), 404, "isn't served")

	// A missing version or invalid settings change nothing.
	putSettings(t, folder, "versions: [1, 7]\n")
	admin := s.admin
	r := admin.post("/v2/repository/models/net/load", "")
	expectError(t, r, 400, "version 7 is named in model.yaml but not found")
	putSettings(t, folder, "version: latest\n")
	r = admin.post("/v2/repository/models/net/load", "")
	expectError(t, r, 400, `line 1: unknown setting \"version\"; did you mean versions?`)
	expectVersion(t, s.putTo("/image/net/versions/1", photo), 1)
}

// When the newest version is removed, the one before it serves again. The last version still serves after its file is gone.
func TestRollback(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt", "2/model.pt": "identity.pt"})
	s := start(t, folder)
	photo := photograph(t, "jpeg-420.jpg")
	expectVersion(t, s.put(photo), 2)
	if err := os.RemoveAll(filepath.Join(folder, "2")); err != nil {
		t.Fatal(err)
	}
	s.reload()
	expectVersion(t, s.put(photo), 1)
	if err := os.RemoveAll(filepath.Join(folder, "1")); err != nil {
		t.Fatal(err)
	}
	if err := s.app.Reload(); err == nil {
		t.Error("reload of an empty folder: no error")
	}
	s.awaitState("net", 0, lifecycle.Failed)
	expectVersion(t, s.put(photo), 1)
}

// With --watch a new version is loaded without a command.
func TestWatch(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	s := start(t, folder, "--watch", "--settle", "5ms")
	photo := photograph(t, "jpeg-420.jpg")
	before := expectVersion(t, s.put(photo), 1)
	putModel(t, filepath.Join(folder, "2", "model.pt2"), "negate.pt2")
	s.awaitState("net", 2, lifecycle.Ready)
	s.awaitState("net", 1, lifecycle.Unloaded)
	after := s.put(photo, "Accept", "image/png")
	if expectVersionOf(t, after, "2"); bytes.Equal(before, after.body) {
		t.Error("version 2 responds like version 1")
	}
	if size := decodePNG(t, after.body).Bounds().Size(); size != (image.Point{32, 24}) { // the input size of the package
		t.Errorf("size = %v, want 32x24", size)
	}
	// A model that was unloaded stays unloaded.
	if r := s.admin.post("/v2/repository/models/net/unload", ""); r.status != 200 {
		t.Fatalf("unload: got %d %s, want 200", r.status, r.body)
	}
	expectError(t, s.put(photo), 503, "isn't ready")
}

// Neither symbolic links nor request paths reach files outside of the model's folder.
func TestFilesOutsideAreNotServed(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt", "2/readme": "negate.pt"})
	if err := os.Symlink(module("identity.pt"), filepath.Join(folder, "2", "model.pt")); err != nil {
		t.Fatal(err)
	}
	s := start(t, folder)
	if reason := s.awaitState("net", 2, lifecycle.Failed).Reason; !strings.Contains(reason, "escapes") {
		t.Errorf("reason = %q, want \"escapes\"", reason)
	}
	photo := photograph(t, "jpeg-420.jpg")
	expectVersion(t, s.put(photo), 1)
	for _, path := range []string{"/image/..", "/image/../net", "/image/%2e%2e%2fnet", "/image/net/versions/..%2f2", "/image/net/versions/-1"} {
		if r := s.putTo(path, photo); r.status != 404 {
			t.Errorf("%s: status = %d, want 404", path, r.status)
		}
	}
}

// Each of several models in a process has its own path, queue and versions.
func TestSeveralModels(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"3/model.pt": "identity.pt"})
	s := start(t, module("negate.pt"), folder)
	photo := photograph(t, "jpeg-420.jpg")
	negated := expectVersion(t, s.put(photo), 1)
	if again := expectVersion(t, s.putTo("/image/negate", photo), 1); !bytes.Equal(again, negated) {
		t.Error("/image/negate isn't the default model")
	}
	if other := expectVersion(t, s.putTo("/image/net", photo), 3); bytes.Equal(other, negated) {
		t.Error("/image/net responds like /image")
	}
	admin := s.admin
	if r := admin.post("/v2/repository/models/net/unload", ""); r.status != 200 {
		t.Fatalf("unload: got %d %s, want 200", r.status, r.body)
	}
	expectError(t, s.putTo("/image/net", photo), 503, "isn't ready")
	expectVersion(t, s.put(photo), 1)
	expectJSON(t, admin.post("/v2/repository/index", `{"ready":true}`), 200, `[{"name":"negate","version":"1","state":"READY","reason":""}]`)
	if r := s.do("GET", "/readyz", nil); r.status != 503 {
		t.Errorf("/readyz with a model that isn't ready: status = %d, want 503", r.status)
	}
}

// expectVersionOf checks that a response, of any format, is from this version.
func expectVersionOf(t *testing.T, r response, version string) {
	t.Helper()
	if got := r.header.Get("X-Model-Version"); r.status != 200 || got != version {
		t.Fatalf("got status %d, version %s, %.100q, want 200, version %s", r.status, got, r.body, version)
	}
}

func decodePNG(t *testing.T, data []byte) image.Image {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return img
}
