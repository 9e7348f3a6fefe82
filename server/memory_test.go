//go:build !race

// The race detector's memory is much larger than the server's.

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

const mib = 1 << 20

// giants are small files that take much memory to decode.
func giants(t *testing.T) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"PNG":              flatPNG(t, 9000, 5000, color.White),
		"progressive JPEG": progressiveBomb(4000, 4000, 3),
		"large JPEG":       progressiveBomb(6000, 6000, 3),
		"too large a JPEG": progressiveBomb(9459, 9459, 3),
		"TIFF":             sharedStripsBomb(20000, 30000),
		"photograph":       photograph(t, "jpeg-large.jpg"),
	}
}

// sendGiants sends each of these images several times at once. Each must be answered or refused.
func sendGiants(s target, images map[string][]byte) {
	s.t.Helper()
	for name, image := range images {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				r, err := s.try(http.MethodPut, "/image", bytes.NewReader(image))
				switch {
				case err != nil:
					s.t.Errorf("%s: %v", name, err)
				case r.status != 200 && r.status != 413 && r.status != 422 && r.status != 503:
					s.t.Errorf("%s: got %d %q", name, r.status, r.body)
				}
			})
		}
		wg.Wait()
	}
}

// Whatever is decoded at the same time stays within the limit, and goes back to the system when the server is quiet.
func TestMemoryOfDecodesIsBoundedAndGoesBack(t *testing.T) {
	const limit = 256 * mib
	s := startProcess(t, "--log-level", "error", "--max-queue-size", "64", "--max-decode-memory", strconv.Itoa(limit), module("negate.pt"))
	for range 20 {
		expectImage(t, s.put(photograph(t, "jpeg-420.jpg")))
	}
	idle := s.memory("VmRSS")
	sendGiants(s.target, giants(t))
	// What isn't decoding (bodies, results, buffers of connections) is small here.
	if peak := s.memory("VmHWM"); peak > idle+limit+128*mib {
		t.Errorf("the peak is %d MiB, %d MiB when idle", peak/mib, idle/mib)
	}
	if !poll(func() bool { return s.memory("VmRSS") <= idle+idle/5 }) {
		t.Fatalf("%d MiB when idle, later %d MiB", idle/mib, s.memory("VmRSS")/mib)
	}
}

// The memory of the warm-up goes back, though no request has come.
func TestMemoryOfTheWarmUpGoesBack(t *testing.T) {
	s := startProcess(t, "--log-level", "error", "--size", "384x384", "--max-batch-size", "16", module("upscale2.pt"))
	peak := s.memory("VmHWM")
	if !poll(func() bool { return s.memory("VmRSS") <= peak-100*mib }) {
		t.Fatalf("the peak was %d MiB, later %d MiB", peak/mib, s.memory("VmRSS")/mib)
	}
}

// In a cgroup of 1 GiB the defaults follow from it, and the largest images that are accepted don't end the server.
func TestASmallCgroup(t *testing.T) {
	group := newMemoryCgroup(t, 1024*mib)
	s := group.start(t, module("negate.pt"))
	sendGiants(s.target, giants(t))
	expectError(t, s.put(progressiveBomb(7000, 7000, 3)), http.StatusRequestEntityTooLarge, "--max-decode-memory is 256 MiB")
	expectImage(t, s.put(photograph(t, "jpeg-small.jpg")))
	s.expectOrderlyEnd()
}

// When memory runs out, the kernel ends the model's process and not the server, and the image that took the memory is told
// from others.
func TestTheKernelEndsTheModelThatTakesAllMemory(t *testing.T) {
	const growsOnWhite = `
    y = x
    while bool(torch.any(torch.gt(torch.amin(y, [1, 2, 3]), 0.90000000000000002))):
      y = torch.cat([y, y])
    return torch.mul(y, 1.)
`
	group := newMemoryCgroup(t, 4096*mib)
	s := group.start(t, "--isolate", "--size", "16x16", goldens.Script(t, growsOnWhite))
	expectImage(t, s.put(solid(t, black)))
	// The model's own limit is three quarters of what there was when it began, so that of the cgroup is reached first.
	group.setLimit(t, group.usage(t)+256*mib)
	expectError(t, s.put(solid(t, white)), http.StatusUnprocessableEntity, "the model crashes on this image")
	s.log.await(t, "error", "SIGKILL (killed), by the kernel for lack of memory, or by another process")
	expectImage(t, s.put(solid(t, black)))
	s.expectOrderlyEnd()
}

// A memoryCgroup is a cgroup with a limit of memory.
type memoryCgroup struct{ folder, limitFile, usageFile string }

// newMemoryCgroup returns a new cgroup with a limit in bytes. It skips the test where none can be made.
func newMemoryCgroup(t *testing.T, limit int) *memoryCgroup {
	t.Helper()
	name := fmt.Sprintf("torchherd-test-%d-%s", os.Getpid(), t.Name())
	for _, group := range []*memoryCgroup{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"}, // version 1
		{"/sys/fs/cgroup", "memory.max", "memory.current"},                          // version 2
	} {
		group.folder = filepath.Join(group.folder, name)
		if os.Mkdir(group.folder, 0o755) != nil { //nolint:gosec // a cgroup
			continue
		}
		t.Cleanup(func() { _ = os.Remove(group.folder) })
		if os.WriteFile(filepath.Join(group.folder, group.limitFile), []byte(strconv.Itoa(limit)), 0o600) == nil {
			return group
		}
		_ = os.Remove(group.folder)
	}
	t.Skip("no memory cgroup can be made here: that takes root")
	return nil
}

// start starts a server in the cgroup.
func (g *memoryCgroup) start(t *testing.T, arguments ...string) *process {
	t.Helper()
	return shell(t, `echo $$ >"`+g.folder+`/cgroup.procs" && exec "$@"`, append([]string{"--log-level", "error", "--max-queue-size", "64"}, arguments...)...)
}

func (g *memoryCgroup) setLimit(t *testing.T, limit int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.folder, g.limitFile), []byte(strconv.Itoa(limit)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// usage returns the memory that the cgroup's processes use, in bytes.
func (g *memoryCgroup) usage(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.folder, g.usageFile))
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
