package repository_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/repository"
)

// tree makes files below a new folder called net: names and contents.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "net")
	for name, content := range files {
		put(t, filepath.Join(folder, name), content)
	}
	return folder
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *repository.Source {
	t.Helper()
	source, err := repository.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func list(t *testing.T, source *repository.Source) repository.Listing {
	t.Helper()
	listing, err := source.List()
	if err != nil {
		t.Fatal(err)
	}
	return listing
}

// content reads a version's file.
func content(t *testing.T, source *repository.Source, v repository.Version) string {
	t.Helper()
	file, err := source.Open(v)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFolder(t *testing.T) {
	folder := tree(t, map[string]string{
		"model.yaml": "size: keep\n", "2/model.pt": "two", "10/model.pt2": "ten", "1/model.pt": "one",
		"3/readme.txt": "", "4.new/model.pt": "half", "05/model.pt": "", "-1/model.pt": "", "0/model.pt": "", "x/model.pt": "", "6": "a file",
	})
	source := open(t, folder)
	if source.Name() != "net" || !source.Numbered() {
		t.Errorf("%q, %v", source.Name(), source.Numbered())
	}
	listing := list(t, source)
	var numbers []int
	var contents []string
	for _, v := range listing.Versions {
		numbers = append(numbers, v.Number)
		contents = append(contents, content(t, source, v))
	}
	if string(listing.Settings) != "size: keep\n" || !slices.Equal(numbers, []int{10, 2, 1}) || !slices.Equal(contents, []string{"ten", "two", "one"}) {
		t.Errorf("%q, %v, %v", listing.Settings, numbers, contents)
	}
	again := list(t, source)
	for i, v := range again.Versions {
		if !v.Same(listing.Versions[i]) {
			t.Errorf("version %d isn't the same, untouched", v.Number)
		}
	}
}

func TestBareFile(t *testing.T) {
	path := filepath.Join(tree(t, map[string]string{"small.one.pt": "content"}), "small.one.pt")
	source := open(t, path)
	listing := list(t, source)
	if source.Name() != "small.one" || source.Numbered() || listing.Settings != nil || content(t, source, listing.Versions[0]) != "content" {
		t.Errorf("%q, %v, %+v", source.Name(), source.Numbered(), listing)
	}
	if _, err := repository.Open(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestNothingThere(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		says  string
	}{
		{map[string]string{"model.yaml": "", "1/readme": ""}, "no version is there; put a model into it as 1/model.pt"},
		{map[string]string{"a/readme": "", "b/2/model.pt": ""}, "net/b"},
	} {
		if _, err := open(t, tree(t, c.files)).List(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.files, err)
		}
	}
}

func TestTwoFiles(t *testing.T) {
	source := open(t, tree(t, map[string]string{"1/model.pt": "one", "2/model.pt": "", "2/model.pt2": ""}))
	versions := list(t, source).Versions
	if _, err := source.Open(versions[0]); err == nil || !strings.Contains(err.Error(), "two files, model.pt and model.pt2") {
		t.Error(err)
	}
	if content(t, source, versions[1]) != "one" {
		t.Error("the other version is affected")
	}
}

// Links lead where they lead inside a folder, and nowhere else.
func TestLinks(t *testing.T) {
	folder := tree(t, map[string]string{"1/model.pt": "one", "data/model.pt": "inside", "2/readme": "", "4/readme": ""})
	outside := tree(t, map[string]string{"model.pt": "outside", "model.yaml": "size: keep"})
	for link, to := range map[string]string{
		"2/model.pt": "../data/model.pt",                          // inside
		"3":          outside,                                     // a folder elsewhere
		"4/model.pt": filepath.Join(outside, "model.pt"),          // a file elsewhere
		"5":          "../../" + filepath.Base(outside) + "/../x", // nowhere
	} {
		if err := os.Symlink(to, filepath.Join(folder, link)); err != nil {
			t.Fatal(err)
		}
	}
	source := open(t, folder)
	for _, v := range list(t, source).Versions {
		if v.Number <= 2 {
			if got, want := content(t, source, v), map[int]string{1: "one", 2: "inside"}[v.Number]; got != want {
				t.Errorf("version %d: %q", v.Number, got)
			}
			continue
		}
		if file, err := source.Open(v); err == nil || !strings.Contains(err.Error(), "escapes") {
			t.Errorf("version %d: %v, %v", v.Number, file, err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, "model.yaml"), filepath.Join(folder, "model.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := source.List(); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("settings from elsewhere: %v", err)
	}
}

func TestChangedFiles(t *testing.T) {
	for _, bare := range []bool{true, false} {
		for name, change := range map[string]func(path string) error{
			"replaced": func(path string) error {
				put(t, path+".new", "other")
				return os.Rename(path+".new", path)
			},
			"overwritten": func(path string) error { return os.WriteFile(path, []byte("longer content"), 0o600) },
			"touched":     func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) },
			"deleted":     os.Remove,
		} {
			folder := tree(t, map[string]string{"1/model.pt": "one"})
			file := filepath.Join(folder, "1", "model.pt")
			source := open(t, folder)
			if bare {
				source = open(t, file)
			}
			v := list(t, source).Versions[0]
			opened, err := source.Open(v)
			if err != nil {
				t.Fatal(err)
			}
			if err := source.Unchanged(v); err != nil {
				t.Error(err)
			}
			if err := change(file); err != nil {
				t.Fatal(err)
			}
			if err := source.Unchanged(v); !errors.Is(err, repository.ErrChanged) {
				t.Errorf("%s while it was open: %v", name, err)
			}
			if _, err := source.Open(v); !errors.Is(err, repository.ErrChanged) {
				t.Errorf("%s before it was opened: %v", name, err)
			}
			_ = opened.Close()
		}
	}
}

// A file that is being written is let be: each event puts the time off.
func TestWhenSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const settle = time.Second
		start := time.Now()
		var calls []time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		events := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			repository.WhenSettled(ctx, events, settle, func() { calls = append(calls, time.Since(start)) })
			close(ended)
		}()
		for range 5 {
			events <- struct{}{}
			time.Sleep(settle * 9 / 10)
		}
		time.Sleep(10 * settle)
		events <- struct{}{}
		time.Sleep(10 * settle)
		cancel()
		<-ended
		last := 4 * settle * 9 / 10
		if want := []time.Duration{last + settle, last + settle*9/10 + 10*settle + settle}; !slices.Equal(calls, want) {
			t.Errorf("called at %v instead of %v", calls, want)
		}
	})
}

// What happens at a source is seen: a new version, a new file in the place of another, new settings.
func TestWatch(t *testing.T) {
	folder := tree(t, map[string]string{"1/model.pt": "one"})
	file := filepath.Join(tree(t, map[string]string{"small.pt": "one"}), "small.pt")
	for name, test := range map[string]struct {
		path   string
		change func()
	}{
		"a version":        {folder, func() { put(t, filepath.Join(folder, "2", "model.pt"), "two") }},
		"a version's file": {folder, func() { put(t, filepath.Join(folder, "1", "model.pt"), "other") }},
		"settings":         {folder, func() { put(t, filepath.Join(folder, "model.yaml"), "size: keep") }},
		"a bare file": {file, func() {
			put(t, file+".new", "two")
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			changed := make(chan struct{}, 16)
			if err := open(t, test.path).Watch(t.Context(), time.Millisecond, func() { changed <- struct{}{} }); err != nil {
				t.Fatal(err)
			}
			test.change()
			select {
			case <-changed:
			case <-time.After(time.Minute):
				t.Fatal("nobody saw it")
			}
		})
	}
}
