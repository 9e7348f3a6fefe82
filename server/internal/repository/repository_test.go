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

// tree makes a folder called net with these files, given by their names and contents.
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

// content returns the content of a version's file.
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
		if v != listing.Versions[i] {
			t.Errorf("version %d isn't the same in a second listing", v.Number)
		}
	}
}

func TestSingleFile(t *testing.T) {
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

func TestInMemory(t *testing.T) {
	source := repository.InMemory("small", []byte("content"))
	listing := list(t, source)
	if source.Name() != "small" || source.Numbered() || listing.Settings != nil || len(listing.Versions) != 1 || content(t, source, listing.Versions[0]) != "content" {
		t.Errorf("%q, %v, %+v", source.Name(), source.Numbered(), listing)
	}
	if err := source.Unchanged(listing.Versions[0]); err != nil {
		t.Error(err)
	}
	if err := source.Watch(t.Context(), repository.WatchOptions{Settle: time.Millisecond}, func() {}); err != nil {
		t.Error(err)
	}
}

// A File gives out what a model can be loaded from, and can be closed by its other owner.
func TestFile(t *testing.T) {
	path := filepath.Join(tree(t, map[string]string{"small.pt": "content"}), "small.pt")
	for _, test := range []struct {
		source *repository.Source
		onDisk bool
		bytes  []byte
	}{
		{open(t, path), true, nil},
		{repository.InMemory("small", []byte("content")), false, []byte("content")},
	} {
		file, err := test.source.Open(list(t, test.source).Versions[0])
		if err != nil {
			t.Fatal(err)
		}
		if (file.OS() != nil) != test.onDisk || !slices.Equal(file.Bytes(), test.bytes) {
			t.Errorf("%v: got %v and %q", test.source, file.OS(), file.Bytes())
		}
		if test.onDisk {
			_ = file.OS().Close()
		}
		for range 2 {
			if err := file.Close(); err != nil {
				t.Errorf("%v: closing it again: %v", test.source, err)
			}
		}
	}
}

// A model.yaml that can't be read is an error of List, not a missing file.
func TestBadSettings(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a folder":  {map[string]string{"1/model.pt": "", "model.yaml/x": ""}, "model.yaml is not a regular file"},
		"too large": {map[string]string{"1/model.pt": "", "model.yaml": strings.Repeat("#", 1<<20+1)}, "model.yaml is larger than 1048576 bytes"},
	} {
		if _, err := open(t, tree(t, test.files)).List(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	source := open(t, tree(t, map[string]string{"1/model.pt": "", "model.yaml": ""}))
	if settings := list(t, source).Settings; settings == nil || len(settings) > 0 {
		t.Errorf("an empty model.yaml: got %v", settings)
	}
}

func TestNoVersions(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		want  string
	}{
		{map[string]string{"model.yaml": "", "1/readme": ""}, "no versions found; add a model file as 1/model.pt or 1/model.pt2"},
		{map[string]string{"a/readme": "", "b/2/model.pt": "", "c/1/model.pt": ""}, "the model folders b, c; name those to serve, for example "},
		{map[string]string{"1/generator.pt": ""}, "1/generator.pt is ignored; rename it to 1/model.pt"},
		{map[string]string{"1/model.pth": ""}, "1/model.pth is ignored; rename it to 1/model.pt"},
		{map[string]string{"1/a.pt2": ""}, "rename it to 1/model.pt2"},
		{map[string]string{"1/a.pt": "", "1/b.pt": ""}, "1 has several files, a.pt, b.pt, and none is model.pt or model.pt2"},
		{map[string]string{"model.pt": ""}, "model.pt is ignored; rename it to 1/model.pt"},
		{map[string]string{"001/model.pt": ""}, "001 is ignored; rename it to 1"},
		{map[string]string{"v2/model.pt": ""}, "v2 is ignored; rename it to 2"},
	} {
		if _, err := open(t, tree(t, c.files)).List(); err == nil || !strings.Contains(err.Error(), c.want) {
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
		t.Error("the other version has another content")
	}
}

// A link inside a model folder works, one that leads out of the folder is an error.
func TestLinks(t *testing.T) {
	folder := tree(t, map[string]string{"1/model.pt": "one", "data/model.pt": "inside", "2/readme": "", "4/readme": ""})
	outside := tree(t, map[string]string{"model.pt": "outside", "model.yaml": "size: keep"})
	for link, to := range map[string]string{
		"2/model.pt": "../data/model.pt",                          // inside the folder
		"3":          outside,                                     // another folder
		"4/model.pt": filepath.Join(outside, "model.pt"),          // a file of another folder
		"5":          "../../" + filepath.Base(outside) + "/../x", // missing
	} {
		if err := os.Symlink(to, filepath.Join(folder, link)); err != nil {
			t.Fatal(err)
		}
	}
	source := open(t, folder)
	for _, v := range list(t, source).Versions {
		if v.Number <= 2 {
			if got, want := content(t, source, v), map[int]string{1: "one", 2: "inside"}[v.Number]; got != want {
				t.Errorf("version %d: got content %q, want %q", v.Number, got, want)
			}
			continue
		}
		if file, err := source.Open(v); err == nil || !strings.Contains(err.Error(), "escapes") {
			t.Errorf("version %d: got %v, %v, want an error about the link", v.Number, file, err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, "model.yaml"), filepath.Join(folder, "model.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := source.List(); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("settings in another folder: got %v", err)
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
				t.Errorf("%s while it was open: got %v", name, err)
			}
			if _, err := source.Open(v); !errors.Is(err, repository.ErrChanged) {
				t.Errorf("%s before it was opened: got %v", name, err)
			}
			_ = opened.Close()
		}
	}
}

// A file that is being written is ignored until writes settle: each event restarts the wait.
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
			t.Errorf("called at %v, want %v", calls, want)
		}
	})
}

// Watch reports a new version, a replaced file and new settings.
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
			if err := open(t, test.path).Watch(t.Context(), repository.WatchOptions{Settle: time.Millisecond}, func() { changed <- struct{}{} }); err != nil {
				t.Fatal(err)
			}
			test.change()
			select {
			case <-changed:
			case <-time.After(time.Minute):
				t.Fatal("changed was not called")
			}
		})
	}
}

// A source may come to exist later.
func TestExpect(t *testing.T) {
	folder := t.TempDir()
	for path, name := range map[string]string{"file.pt": "file", "folder": "folder"} {
		s, err := repository.Expect(filepath.Join(folder, path))
		if err != nil || s.Name() != name || s.Numbered() != (path == "folder") {
			t.Errorf("%s: name %q, numbered %v, %v", path, s.Name(), s.Numbered(), err)
		}
		if _, err := s.List(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "file.pt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := repository.Expect(filepath.Join(folder, "file.pt"))
	if l, err := s.List(); err != nil || len(l.Versions) != 1 {
		t.Errorf("got %+v, %v", l, err)
	}
}

// What has nearly the right name is named beside versions that are served; a copy in progress isn't.
func TestSlips(t *testing.T) {
	source := open(t, tree(t, map[string]string{
		"model.yml": "", "1/model.pt": "", "1/old.pt": "", "2.new/model.pt": "", "3/net.pth": "", "01/model.pt": "", "05/readme": "", "notes.txt": "",
	}))
	want := []string{
		"01 is ignored beside 1; delete one of them", "3/net.pth is ignored; rename it to 3/model.pt", "model.yml is ignored; rename it to model.yaml",
	}
	if listing := list(t, source); len(listing.Versions) != 1 || !slices.Equal(listing.Slips, want) {
		t.Errorf("got %d versions and %q, want 1 and %q", len(listing.Versions), listing.Slips, want)
	}
}
