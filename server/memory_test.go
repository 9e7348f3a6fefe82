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
	"sync"
	"testing"
	"time"
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
	for begin := time.Now(); s.memory("VmRSS") > idle+idle/5; {
		if time.Since(begin) > time.Minute {
			t.Fatalf("%d MiB when idle, later %d MiB", idle/mib, s.memory("VmRSS")/mib)
		}
	}
}

// In a cgroup of 1 GiB the defaults follow from it, and the largest images that are accepted don't end the server.
func TestASmallCgroup(t *testing.T) {
	group := newMemoryCgroup(t, 1024*mib)
	s := shell(t, `echo $$ >"`+group+`/cgroup.procs" && exec "$@"`, "--log-level", "error", "--max-queue-size", "64", module("negate.pt"))
	sendGiants(s.target, giants(t))
	expectError(t, s.put(progressiveBomb(7000, 7000, 3)), http.StatusRequestEntityTooLarge, "--max-decode-memory is 256 MiB")
	expectImage(t, s.put(photograph(t, "jpeg-small.jpg")))
	s.expectOrderlyEnd()
}

// newMemoryCgroup returns the folder of a new cgroup with a limit in bytes. It skips the test where none can be made.
func newMemoryCgroup(t *testing.T, limit int) string {
	t.Helper()
	name := fmt.Sprintf("torchherd-test-%d", os.Getpid())
	for _, hierarchy := range []struct{ folder, limit string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, // version 1
		{"/sys/fs/cgroup", "memory.max"},                   // version 2
	} {
		group := filepath.Join(hierarchy.folder, name)
		if os.Mkdir(group, 0o755) != nil { //nolint:gosec // a cgroup
			continue
		}
		t.Cleanup(func() { _ = os.Remove(group) })
		if os.WriteFile(filepath.Join(group, hierarchy.limit), []byte(strconv.Itoa(limit)), 0o600) == nil {
			return group
		}
		_ = os.Remove(group)
	}
	t.Skip("no memory cgroup can be made here: that takes root")
	return ""
}
