package torch_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

func open(t *testing.T, path string) *torch.File {
	t.Helper()
	file, err := torch.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestFileMethods(t *testing.T) {
	for name, isPackage := range map[string]bool{"negate.pt2": true, "negate.pt": false, "sized.pt": false, "garbage.pt": false} {
		path := goldens.Path("modules/" + name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []*torch.File{open(t, path), torch.NewBytes(content)} {
			if got := file.IsPackage(); got != isPackage {
				t.Errorf("%s: IsPackage is %v", name, got)
			}
			record, err := file.Extra("torchherd.json")
			if err != nil || (record != nil) != (name == "negate.pt2" || name == "sized.pt") {
				t.Errorf("%s: %s, %v", name, record, err)
			}
			if name == "negate.pt2" && !bytes.Contains(record, []byte(`"size": "32x24"`)) {
				t.Errorf("%s: %s", name, record)
			}
			if absent, err := file.Extra("absent"); absent != nil || err != nil {
				t.Errorf("%s: %s, %v", name, absent, err)
			}
			size := file.Size()
			if name == "garbage.pt" && size != int64(len(content)) || size < 1 || size > int64(len(content)) {
				t.Errorf("%s: size is %d, and the file has %d bytes", name, size, len(content))
			}
		}
	}
	large := goldens.Package(t, func(records map[string][]byte) { records["archive/extra/torchherd.json"] = make([]byte, 1<<20+1) })
	_, err := open(t, large).Extra("torchherd.json")
	expectKind(t, err, torch.ErrNotAModule)
}

// A File loads the file that it has opened, any number of times, also after another file has taken its path.
func TestFileAfterReplacement(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.pt")
	for i, name := range []string{"negate.pt", "identity.pt"} {
		if err := os.WriteFile(path+"new", goldens.Read(t, "modules/"+name), 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := os.Rename(path+"new", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := open(t, path)
	if err := os.Rename(path+"new", path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, err := file.Load(torch.Options{})
		if err != nil {
			t.Fatal(err)
		}
		expectSame(t, "the opened file", m, load(t, "negate.pt"), images(2, 3, 4))
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
	_, err := file.Load(torch.Options{})
	expectKind(t, err, torch.ErrClosed)
}

func TestPackageInMemory(t *testing.T) {
	m, err := torch.NewBytes(goldens.Read(t, "modules/negate.pt2")).Load(torch.Options{})
	if err != nil && strings.Contains(err.Error(), "the package was compiled for") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	expectSame(t, "negate.pt2", m, load(t, "negate.pt"), images(2, packageHeight, packageWidth))
}

// Only regular files are accepted. Nothing opens this pipe for writing, so Open must not wait.
func TestOpenRefusesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "is a directory", pipe: "is a pipe", os.DevNull: "is a device"} {
		_, err := torch.Open(path)
		expectKind(t, err, torch.ErrNotAModule)
		if err != nil && !strings.Contains(err.Error(), path+" "+want) {
			t.Errorf("error %q doesn't contain %q", err, want)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = torch.NewFile(f)
	expectKind(t, err, torch.ErrNotAModule)
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the directory is still open: %v", err)
	}
	_, err = torch.Open(filepath.Join(dir, "absent.pt"))
	expectKind(t, err, torch.ErrNotFound)
}

// The files of Linux's /sys are shorter than their size of 4096 bytes.
func TestTruncatedFile(t *testing.T) {
	const path = "/sys/kernel/mm/transparent_hugepage/enabled"
	file, err := torch.Open(path)
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = file.Close() }()
	_, err = file.Load(torch.Options{})
	expectKind(t, err, torch.ErrNotAModule)
	if err == nil || !strings.Contains(err.Error(), path+": it is truncated") {
		t.Errorf("error %v doesn't say that the file is truncated", err)
	}
}

// Loading a file that is truncated meanwhile fails, unless it was read before.
func TestFileIsTruncatedDuringLoad(t *testing.T) {
	content := goldens.Read(t, "modules/needs_four.pt")
	path := filepath.Join(t.TempDir(), "model.pt")
	for seed := range uint64(40) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file := open(t, path)
		var wg sync.WaitGroup
		wg.Go(func() {
			runtime.Gosched()
			if err := os.Truncate(path, rand.New(rand.NewPCG(seed, 0)).Int64N(int64(len(content)))); err != nil {
				t.Error(err)
			}
		})
		m, err := file.Load(torch.Options{})
		if err == nil {
			err = m.Close()
		} else {
			expectKind(t, err, torch.ErrNotAModule)
			err = nil
		}
		wg.Wait()
		if err != nil {
			t.Error(err)
		}
		_, err = file.Load(torch.Options{})
		expectKind(t, err, torch.ErrNotAModule)
	}
}
