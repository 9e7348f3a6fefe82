package main

import (
	"bytes"
	"image/jpeg"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// A modelFile is a file that a server serves, at first a module that negates, in which others are put.
type modelFile struct {
	t    *testing.T
	path string
}

func newModelFile(t *testing.T) modelFile {
	f := modelFile{t, filepath.Join(t.TempDir(), "model.pt")}
	f.put(goldens.Read(t, "modules/negate.pt"))
	return f
}

// put replaces the content in one step, as mv does.
func (f modelFile) put(content []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.path+".new", content, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		f.t.Fatal(err)
	}
}

// Under load one version follows the other: no request fails, and each is answered by the version that it names.
func TestSwapUnderLoad(t *testing.T) {
	const swaps, clients = 20, 4
	file := newModelFile(t)
	models := [][]byte{goldens.Read(t, "modules/negate.pt"), goldens.Read(t, "modules/identity.pt")}
	c := start(t, file.path, "--max-queue-size", "64")
	photo := photograph(t, "jpeg-420.jpg")

	// What each model answers; version 1 is of the first, version 2 of the second, and so on.
	var want [2][]byte
	swap := func(version int) {
		file.put(models[(version-1)%2])
		c.signal(syscall.SIGHUP)
		c.await("the new version has taken over", "version", strconv.Itoa(version))
	}
	want[0] = expectVersion(t, c.put(photo), 1)
	swap(2)
	want[1] = expectVersion(t, c.put(photo), 2)

	var stop atomic.Bool
	var seen [swaps + 3]atomic.Int64 // answers by version
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for !stop.Load() {
				a, err := c.try("PUT", "/image", bytes.NewReader(photo))
				version, _ := strconv.Atoi(a.header.Get("X-Model-Version"))
				if err != nil || a.status != 200 || version < 2 || version >= len(seen) {
					t.Errorf("%v, status %d, version %q, %s", err, a.status, a.header.Get("X-Model-Version"), a.body)
					return
				}
				if !bytes.Equal(a.body, want[(version-1)%2]) {
					t.Errorf("version %d gave another version's answer", version)
					return
				}
				seen[version].Add(1)
			}
		})
	}
	for i := range swaps {
		swap(3 + i)
	}
	stop.Store(true)
	wg.Wait()
	c.awaitCount("the version before is gone", swaps+1)
	expectVersion(t, c.put(photo), swaps+2)
	versions := 0
	for i := range seen {
		if seen[i].Load() > 0 {
			versions++
		}
	}
	if versions < swaps/2 {
		t.Errorf("answers came of %d versions only, so hardly a swap was under load", versions)
	}
}

// expectVersion checks that an answer is a picture by this version, and returns it.
func expectVersion(t *testing.T, a answer, version int) []byte {
	t.Helper()
	expectPicture(t, a)
	if got := a.header.Get("X-Model-Version"); got != strconv.Itoa(version) {
		t.Fatalf("version %s answered, not %d", got, version)
	}
	return a.body
}

// A file that can't be served changes nothing, and the log says why.
func TestBadSwap(t *testing.T) {
	file := newModelFile(t)
	c := start(t, file.path)
	photo := photograph(t, "jpeg-420.jpg")
	before := expectVersion(t, c.put(photo), 1)
	for i, bad := range []struct{ name, reason string }{
		{"truncated.pt", "model.pt"},
		{"garbage.pt", "model.pt"},
		{"checkpoint.pth", "model.pt"},
		{"two_channels.pt", "1 or 3"},
		{"nan.pt", "NaN or infinite"},
		{"no_batch_two.pt", "refuses a batch of two"},
		{"other_range.pt", "0..1"},
		{"", "no such file"},
	} {
		if bad.name == "" {
			if err := os.Remove(file.path); err != nil {
				t.Fatal(err)
			}
		} else {
			file.put(goldens.Read(t, "modules/"+bad.name))
		}
		c.signal(syscall.SIGHUP)
		c.awaitCount("the file can't be served; nothing has changed", i+1)
		if reason := c.last("the file can't be served; nothing has changed")["error"].(string); !strings.Contains(reason, bad.reason) {
			t.Errorf("%s: %s", bad.name, reason)
		}
		if after := expectVersion(t, c.put(photo), 1); !bytes.Equal(before, after) {
			t.Errorf("%s: another answer", bad.name)
		}
	}
	// And a good one after all that takes over.
	file.put(goldens.Read(t, "modules/identity.pt"))
	c.signal(syscall.SIGHUP)
	c.await("the new version has taken over")
	if after := c.put(photo); after.status != 200 || bytes.Equal(before, after.body) {
		t.Errorf("%d, or the old answer", after.status)
	}
}

// A new file may want pictures of another size.
func TestSwapToAnotherSize(t *testing.T) {
	file := newModelFile(t)
	c := start(t, file.path)
	file.put(goldens.Read(t, "modules/sized.pt"))
	c.signal(syscall.SIGHUP)
	c.await("the new version has taken over")
	a := c.put(photograph(t, "jpeg-420.jpg"))
	expectPicture(t, a)
	answer, err := jpeg.DecodeConfig(bytes.NewReader(a.body))
	if err != nil || answer.Width != 24 || answer.Height != 16 { // as models/fixtures.py makes it
		t.Errorf("%dx%d, %v", answer.Width, answer.Height, err)
	}
}
