package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"image/png"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/app"
	"github.com/torchherd/torchherd/server/internal/cli"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

// startWith is start with options that have no flags.
func startWith(t testing.TB, change func(*app.Options), arguments ...string) *embedded {
	t.Helper()
	log := newLogLines()
	options, err := cli.ServeOptions("test", serveArguments(arguments), zerolog.New(log).Level(zerolog.DebugLevel))
	if err != nil {
		t.Fatal(err)
	}
	change(&options)
	return embed(t, options, log)
}

var (
	white = color.NRGBA{255, 255, 255, 255}
	black = color.NRGBA{0, 0, 0, 255}
)

// colourOf returns the colour of a PNG's first pixel.
func colourOf(body []byte) (color.NRGBA, error) {
	img, err := png.Decode(bytes.NewReader(body))
	if err != nil {
		return color.NRGBA{}, err
	}
	return color.NRGBAModel.Convert(img.At(0, 0)).(color.NRGBA), nil
}

// near reports whether two colours differ by no more than the rounding of the resize and the model.
func near(a, b color.NRGBA) bool {
	same := func(a, b uint8) bool { return a-b <= 2 || b-a <= 2 }
	return same(a.R, b.R) && same(a.G, b.G) && same(a.B, b.B)
}

// runners returns the process IDs of the children that run the model at this path.
func runners(t testing.TB, model string) []int {
	t.Helper()
	var pids []int
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range commands {
		text, err := os.ReadFile(each) // of a process that has ended: an error
		if err == nil && bytes.HasPrefix(text, []byte("torchherd-runner\x00")) && bytes.Contains(text, []byte(model)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(each)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// awaitRunner returns the process ID of the only child that runs a model, other than not, when there is one.
func awaitRunner(t testing.TB, model string, not int) int {
	t.Helper()
	var pids []int
	is := func() bool {
		pids = runners(t, model)
		return len(pids) == 1 && pids[0] != not
	}
	if !poll(is) {
		t.Fatalf("no new process runs %s: %v", model, pids)
	}
	return pids[0]
}

// awaitNoRunner waits until no child runs a model.
func awaitNoRunner(t testing.TB, model string) {
	t.Helper()
	if !poll(func() bool { return len(runners(t, model)) == 0 }) {
		t.Fatalf("processes still run %s: %v", model, runners(t, model))
	}
}

func TestIsolatedServingReturnsTheSameImages(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-420.jpg")
	path := copyOf(t, "upscale2.pt")
	inside, isolated := start(t, path), start(t, "--isolate", "--instances", "2", path)
	for range 3 {
		a, b := inside.put(photo), isolated.put(photo)
		expectImage(t, b)
		if !bytes.Equal(a.body, b.body) {
			t.Error("the response differs from that of a model in the server's process")
		}
	}
	if pids := runners(t, path); len(pids) != 2 {
		t.Errorf("processes: %v, want 2", pids)
	}
	if err := isolated.stop(t.Context()); err != nil {
		t.Error(err)
	}
	awaitNoRunner(t, path)
}

// copyOf returns the path of a copy of a test module, which no other test uses.
func copyOf(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.pt")
	if err := os.WriteFile(path, goldens.Read(t, "modules/"+name), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whatever ends the model's process under load: every request is answered, with its own client's image or 503 or 422.
func TestKillsUnderLoad(t *testing.T) { killUnderLoad(t, 20) }

func killUnderLoad(t *testing.T, kills int) {
	path := copyOf(t, "negate.pt")
	s := startWith(t, func(o *app.Options) { o.ForwardTimeout = 2 * time.Second }, "--isolate", "--size", "16x16", "--max-queue-size", "64", path)
	done := make(chan struct{})
	var good, refused, crashed atomic.Int64
	var clients sync.WaitGroup
	for client := range 6 {
		clients.Go(func() {
			own := color.NRGBA{byte(10 + 40*client), byte(200 - 30*client), byte(17 * client), 255}
			want := color.NRGBA{255 - own.R, 255 - own.G, 255 - own.B, 255}
			body := solid(t, own)
			for {
				select {
				case <-done:
					return
				default:
				}
				r, err := s.try(http.MethodPut, "/image?format=png", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				switch r.status {
				case http.StatusOK:
					if got, err := colourOf(r.body); err != nil || !near(got, want) {
						t.Errorf("client %d got %v, %v, want %v", client, got, err, want)
					}
					good.Add(1)
				case http.StatusServiceUnavailable:
					refused.Add(1)
					if r.header.Get("Retry-After") == "" {
						t.Errorf("503 without Retry-After: %s", r.body)
					}
				case http.StatusUnprocessableEntity: // two kills met the same image
					crashed.Add(1)
				default:
					t.Errorf("got %d %s", r.status, r.body)
				}
			}
		})
	}
	signals := []syscall.Signal{syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGKILL}
	pid, before := 0, 0
	for i := range kills {
		pid = awaitRunner(t, path, pid)
		for answered := good.Load(); good.Load() < answered+5; { // it serves
			if t.Failed() {
				break
			}
			time.Sleep(time.Millisecond)
		}
		signal := signals[i%len(signals)]
		if i%10 == 9 {
			signal = syscall.SIGSTOP // which only the limit of a batch ends
		}
		if i == kills/10 {
			before = openDescriptors(t)
		}
		if err := syscall.Kill(pid, signal); err != nil {
			t.Errorf("signal %v: %v", signal, err)
		}
	}
	awaitRunner(t, path, pid)
	for answered := good.Load(); good.Load() < answered+5 && !t.Failed(); {
		time.Sleep(time.Millisecond)
	}
	after := openDescriptors(t)
	close(done)
	clients.Wait()
	t.Logf("%d kills: %d good, %d answered 503, %d answered 422; %d descriptors after a tenth of the kills, %d in the end", kills, good.Load(), refused.Load(), crashed.Load(), before, after)
	if good.Load() < int64(5*kills) {
		t.Errorf("%d good responses", good.Load())
	}
	if after > before+10 {
		t.Errorf("%d descriptors, want about %d", after, before)
	}
	if mapped := countMaps(t, "torchherd-images"); mapped > 1 {
		t.Errorf("%d mappings of shared memory, want 1", mapped)
	}
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// countMaps returns how many mappings of this process have this name.
func countMaps(t testing.TB, name string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), name)
}

// An image that crashes the model is told from its neighbours, which get their results.
func TestAPoisonousImageIsToldFromItsNeighbours(t *testing.T) {
	t.Parallel()
	s := start(t, "--isolate", "--size", "16x16", "--max-batch-size", "4", "--max-queue-size", "8", "--max-wait", "10s", "--wait-policy", "fixed", goldens.Script(t, goldens.CrashesOnWhite))
	var responses []<-chan response
	for i := range 4 {
		c := color.NRGBA{byte(20 * i), 100, 100, 255}
		if i == 1 {
			c = white
		}
		responses = append(responses, s.later(solid(t, c)))
	}
	for i, each := range responses {
		r := <-each
		if i == 1 {
			expectError(t, r, http.StatusUnprocessableEntity, "the model crashes on this image")
			continue
		}
		expectImage(t, r)
	}
	s.log.await(t, "error", "SIGFPE (floating point exception)", "message", "request failed")
}

// A model's process loads the libraries of operators too, from folders outside the system's, also when it is replaced.
func TestOperatorsInChildProcesses(t *testing.T) {
	t.Parallel()
	library := filepath.Join(t.TempDir(), "a, b.so")
	content, err := os.ReadFile(goldens.Operators(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(library, content, 0o600); err != nil {
		t.Fatal(err)
	}
	path := goldens.Script(t, goldens.HalvesBody)
	p := startProcess(t, "--isolate", "--size", "16x16", "--operators", strings.ReplaceAll(library, ",", `\,`), path)
	expect := func() {
		t.Helper()
		r := p.do(http.MethodPut, "/image?format=png", bytes.NewReader(solid(t, color.NRGBA{200, 100, 50, 255})))
		if got, err := colourOf(r.body); err != nil || !near(got, color.NRGBA{100, 50, 25, 255}) {
			t.Errorf("got %v, %v, status %d, want half of the image's colour", got, err, r.status)
		}
	}
	expect()
	if err := syscall.Kill(awaitRunner(t, path, 0), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	expect() // by a new process
}

// Images of a model that isn't pure aren't run again.
func TestAnImpureModelsBatchIsLost(t *testing.T) {
	t.Parallel()
	s := start(t, "--isolate", "--size", "16x16", "--max-wait", "0s", goldens.Script(t, strings.ReplaceAll(goldens.CrashesOnWhite, "add(x,", "add(torch.mul(x, torch.rand_like(x)),")))
	r := s.put(solid(t, white))
	expectError(t, r, http.StatusServiceUnavailable, "the model's process ended during this image's batch")
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	expectImage(t, s.put(solid(t, black)))
}

// A batch that hangs costs itself alone.
func TestAHangIsEnded(t *testing.T) {
	t.Parallel()
	s := startWith(t, func(o *app.Options) { o.ForwardTimeout = 2 * time.Second }, "--isolate", "--size", "16x16", "--max-wait", "0s", goldens.Script(t, goldens.HangsOnWhite))
	expectError(t, s.put(solid(t, white)), http.StatusUnprocessableEntity, "the model crashes on this image")
	expectImage(t, s.put(solid(t, black)))
	s.log.await(t, "error", "killed, because a batch took longer than 2s")
}

// No child outlives a server that is killed.
func TestChildrenEndWithTheServer(t *testing.T) {
	t.Parallel()
	path := copyOf(t, "negate.pt")
	p := startProcess(t, "--isolate", "--instances", "2", path)
	if pids := runners(t, path); len(pids) != 2 {
		t.Errorf("processes: %v, want 2", pids)
	}
	p.signal(syscall.SIGKILL)
	p.wait()
	awaitNoRunner(t, path)
}

// Ctrl-C reaches all processes of a terminal, and a supervisor may signal all processes of a service. The children go on
// while the server drains.
func TestChildrenIgnoreSignalsToStop(t *testing.T) {
	t.Parallel()
	path := copyOf(t, "negate.pt")
	p := startProcess(t, "--isolate", path)
	child := runners(t, path)[0]
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if err := syscall.Kill(child, signal); err != nil {
			t.Error(err)
		}
	}
	expectImage(t, p.put(photograph(t, "jpeg-small.jpg")))
	if pids := runners(t, path); !slices.Equal(pids, []int{child}) {
		t.Errorf("processes: %v, want %d", pids, child)
	}
	p.signal(terminate)
	if state := p.wait(); state.ExitCode() != 0 {
		t.Errorf("got %v, want exit status 0", state)
	}
	awaitNoRunner(t, path)
}

// The settings with which a model works are looked for in the trial's process. A size at which the model crashes ends the
// search, and not the server.
func TestHintsOfATrial(t *testing.T) {
	t.Parallel()
	const sizeOf64 = "    return torch.add(x, torch.zeros([1, 1, 64, 64]))\n"
	const mixedTypes = "    y = torch.conv2d(x, torch.mul(torch.ones([3, 3, 1, 1], dtype=5), 0.25))\n    return torch.conv2d(y, torch.mul(torch.ones([3, 3, 1, 1], dtype=6), 0.25))\n"
	const crashesAt256 = `
    if torch.eq(torch.size(x, 2), 256):
      divisor = 0
    else:
      divisor = 1
    return torch.add(torch.add(x, torch.remainder(5, divisor)), torch.zeros([1, 1, 64, 64]))
`
	for _, test := range []struct{ body, want string }{
		{sizeOf64, "; it works with size: 64x64 in model.yaml"},
		{mixedTypes, "expected scalar type Float but found Half; it works with precision: bf16 in model.yaml"},
		{crashesAt256, "must match the size of tensor b (64) at non-singleton dimension 3"},
	} {
		command := serveCommand("--trial", goldens.Script(t, test.body))
		var output bytes.Buffer
		command.Stderr = &output
		err := command.Run()
		var exit *exec.ExitError
		if text := strings.TrimSpace(output.String()); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasSuffix(text, test.want) {
			t.Errorf("got %v and %s, want exit status 1 and %q", err, text, test.want)
		}
	}
}

// versions is a folder with the versions of a model.
type versions struct {
	t      *testing.T
	folder string
}

func newVersions(t *testing.T) versions {
	t.Helper()
	return versions{t, t.TempDir()}
}

// put adds a version with the content of a file.
func (v versions) put(number int, path string) {
	v.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		v.t.Fatal(err)
	}
	folder := filepath.Join(v.folder, fmt.Sprint(number))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "model.pt"), content, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// A version whose process ends again and again gives its place to the one before.
func TestACrashLoopFallsBackToThePreviousVersion(t *testing.T) {
	t.Parallel()
	v := newVersions(t)
	v.put(1, module("identity.pt"))
	v.put(2, goldens.Script(t, goldens.CrashesOnWhite))
	s := start(t, "--isolate", "--size", "16x16", "--max-wait", "0s", v.folder)
	name := filepath.Base(v.folder)
	awaitResponse(t, func() bool {
		r := s.put(solid(t, white))
		switch version := r.header.Get("X-Model-Version"); {
		case r.status == http.StatusOK && version == "1":
			return true
		case version != "2" || r.status != http.StatusUnprocessableEntity && r.status != http.StatusServiceUnavailable:
			t.Errorf("got %d %q from version %s", r.status, r.body, version)
		}
		return false
	})
	if status := s.awaitState(name, 2, lifecycle.Failed); !strings.Contains(status.Reason, "SIGFPE") {
		t.Errorf("the reason is %q", status.Reason)
	}
}

// While a model's processes end again and again, its images are refused at once. They don't wait until their time limits.
func TestImagesDontWaitForACrashLoop(t *testing.T) {
	t.Parallel()
	path := copyOf(t, "identity.pt")
	s := start(t, "--isolate", "--size", "16x16", "--request-timeout", "0s", path)
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("no process starts from a file that was written to")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(awaitRunner(t, path, 0), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := s.put(solid(t, white))
	expectError(t, r, http.StatusServiceUnavailable, "try again")
	if r.header.Get("Retry-After") == "" {
		t.Error("Retry-After is missing")
	}
}

// A version that crashes, hangs or takes all memory in its trial leaves the serving one alone, and its reason says why.
func TestATrialFailsInPlaceOfTheServer(t *testing.T) {
	t.Parallel()
	crash := `
    return torch.add(x, torch.remainder(5, torch.sub(torch.size(x, 2), 16)))
`
	memory := `
    return torch.mul(x, torch.sum(torch.repeat(x, [1, 1, 4000000, 1000000])))
`
	for _, isolate := range []string{"--trial", "--isolate"} {
		v := newVersions(t)
		v.put(1, module("negate.pt"))
		s := start(t, isolate, "--size", "16x16", v.folder)
		name := filepath.Base(v.folder)
		for number, test := range []struct{ body, reason string }{
			{crash, "SIGFPE (floating point exception), while running 1 image of 16x16"},
			{memory, "allocate"},
		} {
			v.put(number+2, goldens.Script(t, test.body))
			if err := s.app.Reload(); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("%s: got %v, want %q", isolate, err, test.reason)
			}
			status := s.awaitState(name, number+2, lifecycle.Failed)
			if !strings.Contains(status.Reason, test.reason) {
				t.Errorf("%s: the reason is %q, want %q", isolate, status.Reason, test.reason)
			}
			expectImage(t, s.put(solid(t, black)))
		}
		v.put(9, module("identity.pt"))
		s.reload()
		if r := s.put(solid(t, black)); r.header.Get("X-Model-Version") != "9" {
			t.Errorf("%s: version %s answers, want 9", isolate, r.header.Get("X-Model-Version"))
		}
		s.awaitDrained(name)
		want := 0
		if isolate == "--isolate" {
			want = 1
		}
		if pids := runners(t, v.folder); len(pids) != want {
			t.Errorf("%s: processes: %v, want %d", isolate, pids, want)
		}
	}
}

// A warm-up without an end is ended by what ends the load, here unloading, and its process with it.
func TestAnEndlessTrialIsEnded(t *testing.T) {
	t.Parallel()
	v := newVersions(t)
	v.put(1, module("negate.pt"))
	s := start(t, "--trial", "--size", "16x16", v.folder)
	v.put(2, goldens.Script(t, goldens.Hangs))
	reloaded := make(chan error, 1)
	go func() { reloaded <- s.app.Reload() }()
	name := filepath.Base(v.folder)
	s.awaitState(name, 2, lifecycle.Warming)
	expectImage(t, s.put(solid(t, black)))
	if r := s.admin.post("/v2/repository/models/"+name+"/unload", ""); r.status != http.StatusOK {
		t.Errorf("unload: got %d %s", r.status, r.body)
	}
	if err := <-reloaded; err == nil {
		t.Error("the version was loaded")
	}
	awaitNoRunner(t, v.folder)
}
