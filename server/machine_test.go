package main

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// The tests in this file are about the server's use of the machine: packages, precision, instances, threads and libraries.

// pixels sends an image and returns the pixels of the response.
func (g target) pixels(photo []byte) []byte {
	g.t.Helper()
	r := g.put(photo, "Accept", "image/png")
	img, err := png.Decode(bytes.NewReader(r.body))
	if err != nil {
		g.t.Fatalf("got %d %.100q, %v, want a PNG", r.status, r.body, err)
	}
	return img.(*image.RGBA).Pix
}

// An AOTInductor package responds like the TorchScript module that it was compiled from, at the size in the package.
func TestPackage(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("negate.pt2 is compiled for linux on amd64, this is " + runtime.GOOS + " on " + runtime.GOARCH)
	}
	folder := t.TempDir()
	compiled := start(t, "--package-folder", folder, module("negate.pt2"))
	script := start(t, "--size", "32x24", module("negate.pt"))
	photo := photograph(t, "jpeg-420.jpg")
	if !bytes.Equal(compiled.pixels(photo), script.pixels(photo)) {
		t.Error("the package responds differently from the TorchScript module")
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("unpacked files that are left: %v, %v, want none", left, err)
	}
	expectFailure(t, "the package takes items of [3 24 32]", "--size", "64x64", module("negate.pt2"))
	expectFailure(t, "the package takes batches of 1 to 4", "--max-batch-size", "5", module("negate.pt2"))
	expectFailure(t, "a package computes in the one that it was compiled for", "--precision", "bf16", module("negate.pt2"))
}

func TestPrecision(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-420.jpg")
	psnr := goldens.PSNR(start(t).pixels(photo), start(t, "--precision", "bf16").pixels(photo))
	if psnr < 35 || math.IsInf(psnr, 1) {
		t.Errorf("PSNR of bf16 with fp32 = %.1f dB, want at least 35, and finite", psnr)
	}
	expectFailure(t, "the CPU has fp32 and bf16", "--device", "cpu", "--precision", "fp16")
	expectFailure(t, "graphs are for CUDA devices", "--device", "cpu", "--cuda-graphs")
}

func TestJPEGScale(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-large.jpg")
	whole := start(t, "--size", "100x100", module("negate.pt"))
	scaled := start(t, "--size", "100x100", "--jpeg-scale", module("negate.pt"))
	psnr := goldens.PSNR(whole.pixels(photo), scaled.pixels(photo))
	if psnr < 35 || math.IsInf(psnr, 1) {
		t.Errorf("PSNR with and without --jpeg-scale = %.1f dB, want at least 35, and finite", psnr)
	}
}

// With several instances each request gets its own image.
func TestInstances(t *testing.T) {
	t.Parallel()
	s := start(t, "--instances", "3", "--max-queue-size", "64", "--size", "keep", module("identity.pt"))
	if instances := s.app.Ready().Models[0].Instances; instances != 3 {
		t.Errorf("instances = %v, want 3", instances)
	}
	names := []string{"png-rgb.png", "exif-1.jpg", "jpeg-small.jpg"}
	var want [][]byte
	for _, name := range names {
		want = append(want, s.pixels(photograph(t, name)))
	}
	if slices.EqualFunc(want[:1], want[1:2], bytes.Equal) {
		t.Fatal("two of the images are equal")
	}
	var wg sync.WaitGroup
	for client := range 9 {
		wg.Go(func() {
			for round := range 30 {
				i := (client + round) % len(names)
				r, err := s.try("PUT", "/image", bytes.NewReader(photograph(t, names[i])), "Accept", "image/png")
				if err != nil {
					t.Error(err)
					return
				}
				img, err := png.Decode(bytes.NewReader(r.body))
				if err != nil || !bytes.Equal(img.(*image.RGBA).Pix, want[i]) {
					t.Errorf("client %d, round %d: got status %d, %v, want its own image", client, round, r.status, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// By default a large model uses all cores that the process may use, and a small one uses one thread.
func TestThreads(t *testing.T) {
	t.Parallel()
	cores := runtime.GOMAXPROCS(0)
	for _, test := range []struct {
		arguments []string
		want      int
	}{
		{nil, cores},
		{[]string{"--threads", "3"}, 3},
		{[]string{module("negate.pt"), "--size", "64x64"}, 1},
		{[]string{"--instances", "2"}, max(1, cores/2)},
	} {
		if threads := start(t, test.arguments...).app.Ready().Models[0].Threads; threads != test.want {
			t.Errorf("%v: threads = %v, want %v", test.arguments, threads, test.want)
		}
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		t.Skip(err)
	}
	command := exec.CommandContext(t.Context(), taskset, append([]string{"--cpu-list", "0", os.Args[0], "serve"}, serveArguments(nil)...)...)
	command.Env = append(os.Environ(), beTheCommand+"=1")
	if threads := startCommand(t, command).report.Models[0].Threads; threads != 1 {
		t.Errorf("with one core: threads = %v, want 1", threads)
	}
}

// serve sets the libraries' variables in the environment of its process, and keeps those that the user set.
func TestLibrarySettings(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the libraries are those of Linux")
	}
	command := exec.CommandContext(t.Context(), os.Args[0], append([]string{"serve"}, serveArguments([]string{module("negate.pt")})...)...)
	command.Env = append(os.Environ(), beTheCommand+"=1", "GOMP_SPINCOUNT=123")
	startCommand(t, command)
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	settings := strings.Split(string(environment), "\x00")
	for _, want := range []string{"GOMP_SPINCOUNT=123", "MALLOC_MMAP_MAX_=0", "MALLOC_ARENA_MAX=1"} {
		if !slices.Contains(settings, want) {
			t.Errorf("%s is missing in the environment of the process", want)
		}
	}
}
