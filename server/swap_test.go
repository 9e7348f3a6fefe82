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

// clients send a picture again and again until they are stopped, and check each answer: no request may fail, and each
// answer is exactly that of the version that it names.
type clients struct {
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	seen map[int]int // answers by version
}

// load starts clients. want is what each version answers; it is asked from their goroutines.
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
				a, err := g.try("PUT", "/image", bytes.NewReader(photo))
				version, _ := strconv.Atoi(a.header.Get("X-Model-Version"))
				if err != nil || a.status != 200 {
					g.t.Errorf("%v, status %d, version %q, %s", err, a.status, a.header.Get("X-Model-Version"), a.body)
					return
				}
				if !bytes.Equal(a.body, want(version)) {
					g.t.Errorf("version %d gave another answer than its own", version)
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

// answers is how many there were so far.
func (l *clients) answers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := 0
	for _, count := range l.seen {
		sum += count
	}
	return sum
}

// end stops the clients and tells how many answers came from each version.
func (l *clients) end() map[int]int {
	close(l.stop)
	l.wg.Wait()
	return l.seen
}

// Under load one version follows the other: no request fails, and each is answered by the version that it names.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	const swaps = 20
	file := newModelFile(t)
	models := [][]byte{goldens.Read(t, "modules/negate.pt"), goldens.Read(t, "modules/identity.pt")}
	s := start(t, file.path, "--max-queue-size", "64")
	photo := photograph(t, "jpeg-420.jpg")

	// What each model answers; version 1 is of the first, version 2 of the second, and so on.
	var want [2][]byte
	swap := func(version int) {
		file.put(models[(version-1)%2])
		s.reload()
	}
	want[0] = expectVersion(t, s.put(photo), 1)
	swap(2)
	want[1] = expectVersion(t, s.put(photo), 2)
	if bytes.Equal(want[0], want[1]) {
		t.Fatal("the two models answer the same")
	}

	load := s.load(4, photo, func(version int) []byte { return want[(version+1)%2] })
	for i := range swaps {
		swap(3 + i)
	}
	seen := load.end()
	s.awaitDrained("model")
	expectVersion(t, s.put(photo), swaps+2)
	if len(seen) < swaps/2 {
		t.Errorf("answers came of %d versions only, so hardly a swap was under load", len(seen))
	}
}

// expectVersion checks that an answer is a picture by this version, and returns it.
func expectVersion(t *testing.T, a answer, version int) []byte {
	t.Helper()
	expectImage(t, a)
	if got := a.header.Get("X-Model-Version"); got != strconv.Itoa(version) {
		t.Fatalf("version %s answered, not %d", got, version)
	}
	return a.body
}

// A file that can't be served changes nothing, and the log, the metric and GET /models say why.
func TestBadSwaps(t *testing.T) {
	t.Parallel()
	file := newModelFile(t)
	s := start(t, file.path, "--max-queue-size", "64", "--max-model-memory", "500kB")
	admin := s.admin
	photo := photograph(t, "jpeg-420.jpg")
	first := expectVersion(t, s.put(photo), 1)
	load := s.load(2, photo, func(version int) []byte {
		if version != 1 {
			t.Errorf("version %d answered", version)
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
		{name: "two_channels.pt", reason: "1 or 3"},
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
			t.Errorf("%s: the reload had no error", bad.name)
		}
		reason := s.awaitState("model", version, lifecycle.Failed).Reason
		s.log.await(t, "level", "error", "model", "model", "version", strconv.Itoa(version), "error", reason)
		if !strings.Contains(reason, bad.reason) {
			t.Errorf("%s: %s", bad.name, reason)
		}
		versions := s.statuses("model")
		if last := versions[len(versions)-1]; versions[0].State != "ready" || last.State != "failed" || last.Reason != reason {
			t.Errorf("%s: %+v", bad.name, versions)
		}
		metric := fmt.Sprintf(`torchherd_model_loads_total{model="model",outcome="failed"} %d`, i+1)
		if metrics := admin.do("GET", "/metrics", nil); !strings.Contains(string(metrics.body), metric) {
			t.Errorf("%s: no %s in\n%s", bad.name, metric, metrics.body)
		}
	}
	if seen := load.end(); seen[1] == 0 {
		t.Error("there was no load")
	}
	// And a good one after all that takes over.
	file.put(goldens.Read(t, "modules/identity.pt"))
	s.reload()
	if after := s.put(photo); after.status != 200 || bytes.Equal(first, after.body) {
		t.Errorf("%d, or the old answer", after.status)
	}
}

// A version that takes half a minute to load keeps nobody waiting, not even one who stops the server.
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
		t.Errorf("%s", list.body)
	}
	if err := s.stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A server that is killed while it changes its model starts again on a version that is complete.
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

	// Version 2 was complete; version 3 is a copy that was killed as well.
	putModel(t, filepath.Join(folder, "3", "model.pt"), "truncated.pt")
	s := start(t, folder)
	if second := expectVersion(t, s.put(photo), 2); bytes.Equal(first, second) {
		t.Error("version 2 answers as version 1")
	}
	s.awaitState("net", 3, lifecycle.Failed)
}

// A new file may want pictures of another size.
func TestSwapToAnotherSize(t *testing.T) {
	t.Parallel()
	file := newModelFile(t)
	s := start(t, file.path)
	file.put(goldens.Read(t, "modules/sized.pt"))
	s.reload()
	a := s.put(photograph(t, "jpeg-420.jpg"))
	expectImage(t, a)
	answer, err := jpeg.DecodeConfig(bytes.NewReader(a.body))
	if err != nil || answer.Width != 24 || answer.Height != 16 { // as models/fixtures.py makes it
		t.Errorf("%dx%d, %v", answer.Width, answer.Height, err)
	}
}
