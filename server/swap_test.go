package main

import (
	"bytes"
	"fmt"
	"image/jpeg"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

// A modelFile is a model's file that tests replace.
type modelFile struct {
	t    *testing.T
	path string
}

// newModelFile returns a file with negate.pt.
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

// clients send an image repeatedly until they are stopped, and check each response: no request may fail, and each response
// must be that of the version it names.
type clients struct {
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	seen map[int]int // number of responses by version
}

// load starts clients. want returns the expected response of a version; the clients' goroutines call it.
func (g target) load(count int, photo []byte, want func(version int) []byte) *clients {
	l := &clients{stop: make(chan struct{}), seen: map[int]int{}}
	for range count {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				r, err := g.try("PUT", "/image", bytes.NewReader(photo))
				version, _ := strconv.Atoi(r.header.Get("X-Model-Version"))
				if err != nil || r.status != 200 {
					g.t.Errorf("got %d, version %q, %s, %v, want 200", r.status, r.header.Get("X-Model-Version"), r.body, err)
					return
				}
				if !bytes.Equal(r.body, want(version)) {
					g.t.Errorf("a response of version %d isn't that of its model", version)
					return
				}
				l.mu.Lock()
				l.seen[version]++
				l.mu.Unlock()
			}
		})
	}
	return l
}

// responses returns the number of responses so far.
func (l *clients) responses() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := 0
	for _, count := range l.seen {
		sum += count
	}
	return sum
}

// end stops the clients and returns the number of responses by version.
func (l *clients) end() map[int]int {
	close(l.stop)
	l.wg.Wait()
	return l.seen
}

// While versions are swapped under load, no request fails, and each response is that of the version it names.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	const swaps = 20
	file := newModelFile(t)
	models := [][]byte{goldens.Read(t, "modules/negate.pt"), goldens.Read(t, "modules/identity.pt")}
	s := start(t, file.path, "--max-queue-size", "64")
	photo := photograph(t, "jpeg-420.jpg")

	// The response of each model. Versions 1, 3, ... are of the first model, versions 2, 4, ... of the second.
	var want [2][]byte
	swap := func(version int) {
		file.put(models[(version-1)%2])
		s.reload()
	}
	want[0] = expectVersion(t, s.put(photo), 1)
	swap(2)
	want[1] = expectVersion(t, s.put(photo), 2)
	if bytes.Equal(want[0], want[1]) {
		t.Fatal("the two models have the same response")
	}

	load := s.load(4, photo, func(version int) []byte { return want[(version+1)%2] })
	for i := range swaps {
		swap(3 + i)
	}
	seen := load.end()
	s.awaitDrained("model")
	expectVersion(t, s.put(photo), swaps+2)
	if len(seen) < swaps/2 {
		t.Errorf("responses of %d versions, want at least %d: too few swaps were under load", len(seen), swaps/2)
	}
}

// expectVersion checks that a response is a JPEG from this version, and returns it.
func expectVersion(t *testing.T, r response, version int) []byte {
	t.Helper()
	expectImage(t, r)
	if got := r.header.Get("X-Model-Version"); got != strconv.Itoa(version) {
		t.Fatalf("version = %s, want %d", got, version)
	}
	return r.body
}

// A file that can't be served changes nothing. The log and GET /models have the reason, and a metric counts it.
func TestBadSwaps(t *testing.T) {
	t.Parallel()
	file := newModelFile(t)
	s := start(t, file.path, "--max-queue-size", "64", "--max-model-memory", "500kB", "--batching", "require")
	admin := s.admin
	photo := photograph(t, "jpeg-420.jpg")
	first := expectVersion(t, s.put(photo), 1)
	load := s.load(2, photo, func(version int) []byte {
		if version != 1 {
			t.Errorf("version = %d, want 1", version)
		}
		return first
	})
	remove := func() {
		if err := os.Remove(file.path); err != nil {
			t.Error(err)
		}
	}
	for i, bad := range []struct {
		name, reason string
		meanwhile    func() // while it is being loaded
	}{
		{name: "truncated.pt", reason: "model.pt"},
		{name: "garbage.pt", reason: "model.pt"},
		{name: "checkpoint.pth", reason: "model.pt"},
		{name: "two_channels.pt", reason: "1, 3 or 4"},
		{name: "nan.pt", reason: "NaN or infinite"},
		{name: "no_batch_two.pt", reason: "refuses a batch of two"},
		{name: "no_size.pt", reason: "invalid size"},
		{name: "../../models/photo2ink/model.pt", reason: "--max-model-memory is 500000: out of memory"},
		{name: "slow_to_load.pt", reason: "replaced, modified or deleted during loading", meanwhile: func() {
			file.put(goldens.Read(t, "modules/identity.pt"))
		}},
		{name: "slow_to_load.pt", reason: "replaced, modified or deleted during loading", meanwhile: remove},
		{name: "", reason: "no such file"},
	} {
		version := i + 2
		if bad.name != "" {
			file.put(goldens.Read(t, "modules/"+bad.name))
		}
		reloaded := make(chan error, 1)
		go func() { reloaded <- s.app.Reload() }()
		if bad.meanwhile != nil {
			s.awaitState("model", version, lifecycle.Loading)
			bad.meanwhile()
		}
		if err := <-reloaded; err == nil {
			t.Errorf("%s: reload: no error", bad.name)
		}
		reason := s.awaitState("model", version, lifecycle.Failed).Reason
		s.log.await(t, "level", "error", "model", "model", "version", strconv.Itoa(version), "error", reason)
		if !strings.Contains(reason, bad.reason) {
			t.Errorf("%s: reason = %q, want %q in it", bad.name, reason, bad.reason)
		}
		versions := s.statuses("model")
		if last := versions[len(versions)-1]; versions[0].State != "ready" || last.State != "failed" || last.Reason != reason {
			t.Errorf("%s: got %+v, want version 1 ready and the last one failed with %q", bad.name, versions, reason)
		}
		metric := fmt.Sprintf(`torchherd_model_loads_total{model="model",outcome="failed"} %d`, i+1)
		if metrics := admin.do("GET", "/metrics", nil); !strings.Contains(string(metrics.body), metric) {
			t.Errorf("%s: got metrics\n%s\nwant %s in them", bad.name, metrics.body, metric)
		}
	}
	if seen := load.end(); seen[1] == 0 {
		t.Error("no responses of version 1, so there was no load")
	}
	// A good file after all these is swapped in.
	file.put(goldens.Read(t, "modules/identity.pt"))
	s.reload()
	if after := s.put(photo); after.status != 200 || bytes.Equal(first, after.body) {
		t.Errorf("status = %d, want 200 and another response than version 1's", after.status)
	}
}

// While a version takes half a minute to load, requests don't wait for it, and neither does Stop.
func TestSlowSwap(t *testing.T) {
	t.Parallel()
	file := newModelFile(t)
	s := start(t, file.path)
	admin := s.admin
	file.put(goldens.Read(t, "modules/very_slow_to_load.pt"))
	go func() { _ = s.app.Reload() }()
	s.awaitState("model", 2, lifecycle.Loading)
	expectVersion(t, s.put(photograph(t, "jpeg-420.jpg")), 1)
	if list := admin.do("GET", "/models", nil); !strings.Contains(string(list.body), `"version":2,"state":"loading"`) {
		t.Errorf("GET /models: got %s, want version 2 loading", list.body)
	}
	if err := s.stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A server that is killed during a swap restarts with the newest complete version.
func TestKilledDuringASwap(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	p := startProcess(t, folder)
	photo := photograph(t, "jpeg-420.jpg")
	first := expectVersion(t, p.put(photo), 1)
	putModel(t, filepath.Join(folder, "2", "model.pt"), "slow_to_load.pt")
	p.signal(syscall.SIGHUP)
	p.awaitState("net", 2, lifecycle.Loading)
	p.signal(syscall.SIGKILL)
	p.wait()

	// Version 2 is complete; version 3 is the start of a file whose copy was killed as well.
	putModel(t, filepath.Join(folder, "3", "model.pt"), "truncated.pt")
	s := start(t, folder)
	if second := expectVersion(t, s.put(photo), 2); bytes.Equal(first, second) {
		t.Error("version 2 responds like version 1")
	}
	s.awaitState("net", 3, lifecycle.Failed)
}

// A new version can have another image size.
func TestSwapToAnotherSize(t *testing.T) {
	t.Parallel()
	file := newModelFile(t)
	s := start(t, file.path)
	file.put(goldens.Read(t, "modules/sized.pt"))
	s.reload()
	r := s.put(photograph(t, "jpeg-420.jpg"))
	expectImage(t, r)
	config, err := jpeg.DecodeConfig(bytes.NewReader(r.body))
	if err != nil || config.Width != 24 || config.Height != 16 { // the size in sized.pt
		t.Errorf("got %dx%d, %v, want 24x16", config.Width, config.Height, err)
	}
}
