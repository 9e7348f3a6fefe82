package heif_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/heif"
)

// decoder returns the real one, and skips the test where libheif isn't installed.
func decoder(t *testing.T) *heif.Decoder {
	t.Helper()
	d, err := heif.New(goldens.HEICDecoder())
	if err != nil {
		t.Skip(err)
	}
	return d
}

// The pixels of noise.heic take longer to write than a pipe holds.
func noise(t *testing.T, take func(rows []byte) error) *heif.Request {
	t.Helper()
	return &heif.Request{File: goldens.Read(t, "heic/noise.heic"), Width: 1600, Height: 1200, Memory: 256 << 20, Time: 10 * time.Second, Rows: 100, Take: take}
}

// child returns the process that this one has started.
func child(t *testing.T) int {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if pid, convert := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && convert == nil {
			return pid
		}
	}
	t.Fatal("no process is there")
	return 0
}

func TestDecode(t *testing.T) {
	d := decoder(t)
	count := 0
	err := d.Decode(t.Context(), noise(t, func(rows []byte) error {
		count += len(rows)
		return nil
	}))
	if err != nil || count != 1600*1200*3 {
		t.Errorf("%d bytes, %v", count, err)
	}
}

// Whoever ends the process ends one image, with an error that says so.
func TestTheProcessIsKilled(t *testing.T) {
	d := decoder(t)
	err := d.Decode(t.Context(), noise(t, func([]byte) error { return syscall.Kill(child(t), syscall.SIGKILL) }))
	var failure *heif.Error
	if !errors.As(err, &failure) || failure.Kind != heif.Crashed || !strings.Contains(failure.Text, "killed") {
		t.Errorf("got %v", err)
	}
}

func TestTheContextEnds(t *testing.T) {
	d := decoder(t)
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := d.Decode(ctx, noise(t, func([]byte) error {
		cancel(gone)
		return nil
	}))
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

// The process has given up what it doesn't need before it reads the file.
func TestTheProcessIsRestricted(t *testing.T) {
	d := decoder(t)
	var status, limits []byte
	stop := errors.New("seen")
	err := d.Decode(t.Context(), noise(t, func([]byte) error {
		pid := child(t)
		var first, second error
		status, first = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		limits, second = os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		return errors.Join(first, second, stop)
	}))
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	for _, line := range []string{"Seccomp:\t2", "NoNewPrivs:\t1"} {
		if !bytes.Contains(status, []byte(line)) {
			t.Errorf("the process has no %q", line)
		}
	}
	for name, want := range map[string]string{"Max data size": strconv.Itoa(256 << 20), "Max cpu time": "10", "Max core file size": "0"} {
		_, after, _ := strings.Cut(string(limits), name)
		if fields := strings.Fields(after); len(fields) == 0 || fields[0] != want {
			t.Errorf("%s is %v, want %s", name, fields[:min(len(fields), 3)], want)
		}
	}
}

func TestTooLittleMemory(t *testing.T) {
	d := decoder(t)
	r := noise(t, func([]byte) error { return nil })
	r.Memory = 4 << 20
	var failure *heif.Error
	if err := d.Decode(t.Context(), r); !errors.As(err, &failure) {
		t.Errorf("got %v", err)
	}
}

func TestBadFiles(t *testing.T) {
	d := decoder(t)
	whole := goldens.Read(t, "heic/noise.heic")
	for name, file := range map[string][]byte{"empty": {}, "cut": whole[:len(whole)/2], "no image": []byte("no image"), "another size": whole} {
		r := noise(t, func([]byte) error { return nil })
		r.File = file
		if name == "another size" {
			r.Height--
		}
		var failure *heif.Error
		if err := d.Decode(t.Context(), r); !errors.As(err, &failure) || failure.Text == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Without the program, or without libheif, the error says what is missing.
func TestNoDecoder(t *testing.T) {
	if _, err := heif.New(filepath.Join(t.TempDir(), "torchherd-heif")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}
