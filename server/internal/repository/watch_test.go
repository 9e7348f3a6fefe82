package repository_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/repository"
)

// point makes a link lead to a target, in one step.
func point(t *testing.T, link, target string) {
	t.Helper()
	if err := os.Symlink(target, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
}

// watch returns a channel that has an element after each change of the source.
func watch(t *testing.T, path string, poll time.Duration) <-chan struct{} {
	t.Helper()
	changed := make(chan struct{}, 64)
	options := repository.WatchOptions{Settle: time.Millisecond, Poll: poll}
	if err := open(t, path).Watch(t.Context(), options, func() { changed <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	return changed
}

// awaitContent waits for changes until the newest version has this content.
func awaitContent(t *testing.T, path, want string, changed <-chan struct{}) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case <-changed:
			source := open(t, path)
			if content(t, source, list(t, source).Versions[0]) == want {
				return
			}
		case <-deadline:
			t.Fatalf("%s: no change to %q was reported", path, want)
		}
	}
}

// Watch follows each link on the way again when it leads elsewhere, and watches what it leads to then.
func TestWatchLinks(t *testing.T) {
	for name, test := range map[string]struct {
		path  string
		links []string // that are re-pointed from rev1 to rev2
	}{
		"git-sync, a folder":   {"current/m", []string{"current"}},
		"git-sync, a file":     {"current/m/1/model.pt", []string{"current"}},
		"two links":            {"live/m", []string{"current"}},
		"ConfigMap":            {"volume/m.pt", []string{"volume/..data"}},
		"a link in the folder": {"inside", []string{"inside/..data"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := tree(t, map[string]string{
				"rev1/m/1/model.pt": "one", "rev2/m/1/model.pt": "two",
				"volume/rev1/m.pt": "one", "volume/rev2/m.pt": "two",
				"inside/rev1/model.pt": "one", "inside/rev2/model.pt": "two", "inside/1/readme": "",
			})
			for _, link := range []string{"current", "volume/..data", "inside/..data"} {
				point(t, filepath.Join(base, link), "rev1")
			}
			point(t, filepath.Join(base, "live"), filepath.Join(base, "current"))
			point(t, filepath.Join(base, "volume", "m.pt"), "..data/m.pt")
			point(t, filepath.Join(base, "inside", "1", "model.pt"), "../..data/model.pt")
			path := filepath.Join(base, test.path)
			changed := watch(t, path, 0)
			for _, link := range test.links {
				point(t, filepath.Join(base, link), "rev2")
			}
			awaitContent(t, path, "two", changed)
			put(t, modelFile(t, path), "three") // where the link leads to now
			awaitContent(t, path, "three", changed)
		})
	}
}

// modelFile returns the model file of a path, without links.
func modelFile(t *testing.T, path string) string {
	t.Helper()
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		path = filepath.Join(path, "1", "model.pt")
	}
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// A change that only a listing shows counts when the next listing shows the same.
func TestPoll(t *testing.T) {
	folder := tree(t, map[string]string{"1/model.pt": "one"})
	source := open(t, folder)
	synctest.Test(t, func(t *testing.T) {
		const interval = time.Second
		ctx, cancel := context.WithCancel(t.Context())
		events, ended := make(chan struct{}, 64), make(chan struct{})
		go func() {
			source.Poll(ctx, interval, events)
			close(ended)
		}()
		expect := func(want int, when string) {
			t.Helper()
			time.Sleep(interval)
			synctest.Wait()
			if got := len(events); got != want {
				t.Fatalf("%s: %d events, want %d", when, got, want)
			}
		}
		time.Sleep(interval / 2) // between two listings
		expect(0, "unchanged")
		put(t, filepath.Join(folder, "2", "model.pt"), "half")
		expect(0, "being written")
		put(t, filepath.Join(folder, "2", "model.pt"), "half and half")
		expect(0, "written")
		expect(1, "complete")
		expect(1, "unchanged again")
		put(t, filepath.Join(folder, "model.yaml"), "size: keep")
		expect(1, "new settings")
		expect(2, "complete settings")
		cancel()
		<-ended
	})
}
