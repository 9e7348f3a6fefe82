package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/tune"
)

// A tuning is a running `torchherd tune`. It and its servers form a process group.
type tuning struct {
	t       *testing.T
	process *exec.Cmd
	out     bytes.Buffer
	stderr  []string // lines read so far
	lines   *bufio.Scanner
}

func startTune(t *testing.T, arguments ...string) *tuning {
	t.Helper()
	return startTuneWith(t, nil, arguments...)
}

// startTuneWith is startTune with files that the process and its servers inherit.
func startTuneWith(t *testing.T, files []*os.File, arguments ...string) *tuning {
	t.Helper()
	tu := &tuning{t: t, process: exec.Command(os.Args[0], append([]string{"tune"}, arguments...)...)}
	tu.process.Env = append(os.Environ(), beTheCommand+"=1")
	tu.process.ExtraFiles = files
	tu.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	tu.process.Stdout = &tu.out
	stderr, err := tu.process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	tu.lines = bufio.NewScanner(stderr)
	if err := tu.process.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(6*limit, tu.kill)
	t.Cleanup(func() {
		timer.Stop()
		tu.kill()
		if t.Failed() {
			t.Logf("stdout: %s\nstderr: %s", &tu.out, strings.Join(tu.stderr, "\n"))
		}
	})
	return tu
}

// kill kills all processes of the group.
func (tu *tuning) kill() { _ = syscall.Kill(-tu.process.Process.Pid, syscall.SIGKILL) }

// await reads stderr up to a line that contains this text.
func (tu *tuning) await(text string) {
	tu.t.Helper()
	for tu.lines.Scan() {
		tu.stderr = append(tu.stderr, tu.lines.Text())
		if strings.Contains(tu.lines.Text(), text) {
			return
		}
	}
	tu.t.Fatalf("tune exited without printing %q", text)
}

// wait waits for the process and returns its exit status. No server may be left then.
func (tu *tuning) wait() int {
	tu.t.Helper()
	for tu.lines.Scan() {
		tu.stderr = append(tu.stderr, tu.lines.Text())
	}
	err := tu.process.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tu.t.Fatal(err)
	}
	if err := syscall.Kill(-tu.process.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		tu.t.Errorf("a process of the group is still running: %v", err)
	}
	return tu.process.ProcessState.ExitCode()
}

// expect waits for the process, and checks its exit status and texts in stdout and stderr.
func (tu *tuning) expect(status int, out, stderr string) {
	tu.t.Helper()
	if got := tu.wait(); got != status || !strings.Contains(tu.out.String(), out) ||
		!strings.Contains(strings.Join(tu.stderr, "\n"), stderr) {
		tu.t.Errorf("got status %d, want %d with %q and %q", got, status, out, stderr)
	}
}

// short makes rounds as small as possible.
var short = []string{"--duration=1ms", "--budget=5m", "--clients=2"}

// The test runs the whole command with real servers, then a server with the command line that it printed.
func TestTune(t *testing.T) {
	t.Parallel()
	settings := filepath.Join(t.TempDir(), "model.yaml")
	putFile(t, settings, []byte("# mine\nquality: 90\nmax-batch-size: 7 # for now\n"))
	tu := startTune(t, append(short, "--json=-", "--size=64x32", "--write", settings, module("negate.pt"))...)
	if status := tu.wait(); status != 0 {
		t.Fatalf("status %d", status)
	}
	r := readTuning(t, tu.out.Bytes())
	written, err := os.ReadFile(settings)
	chosen := r.Chosen.Settings
	want := fmt.Sprintf("# mine\nquality: 90\nmax-batch-size: %s # for now\ninstances: %s\nthreads: %s\nprecision: %s\ncuda-graphs: false\nmax-wait: %s\nmax-queue-size: 3\n",
		chosen["max-batch-size"], chosen["instances"], chosen["threads"], chosen["precision"], chosen["max-wait"])
	if err != nil || string(written) != want {
		t.Errorf("wrote %q, %v, want %q", written, err, want)
	}
	if r.BudgetSpent || r.Interrupted || !r.MetTarget || r.SpeedUp <= 0 || r.Chosen.Rounds != 3 {
		t.Errorf("got %+v, want a complete search", r)
	}
	var tried []string
	for _, trial := range r.Trials {
		m := trial.Measurement
		if trial.Failure != "" || m.ImagesPerSecond <= 0 || m.P50 <= 0 || m.P99 < m.P50 || m.Threads < 1 || m.CUDA {
			t.Errorf("got %+v, want a complete measurement on the CPU", trial)
		}
		if fp32, same := trial.Settings["precision"] == "fp32", m.PSNR == 0; fp32 != same || !same && m.PSNR < 35 {
			t.Errorf("%v: PSNR = %v dB, want none with fp32, else at least 35", trial.Settings, m.PSNR)
		}
		tried = append(tried, trial.Settings["max-batch-size"], trial.Settings["precision"])
	}
	for _, value := range []string{"1", "2", "fp32", "bf16"} {
		if !slices.Contains(tried, value) {
			t.Errorf("tried %v, want %q among them", tried, value)
		}
	}
	c := r.Command
	if len(c) < 5 || !slices.Equal(c[:3], []string{"torchherd", "serve", module("negate.pt")}) ||
		!slices.Equal(c[len(c)-2:], []string{"--size", "64x32"}) {
		t.Fatalf("got the command %q, want torchherd serve %s ... --size 64x32", c, module("negate.pt"))
	}
	expectImage(t, start(t, c[2:]...).put(photograph(t, "jpeg-small.jpg")))
}

// A tuningResult is tune.Result as its JSON has it, with settings as text.
type tuningResult struct {
	tune.Result
	Trials []tuningTrial `json:"trials"`
	Chosen tuningTrial   `json:"taken"`
}

type tuningTrial struct {
	Settings map[string]string
	Rounds   int
	Failure  string
	tune.Measurement
}

func readTuning(t *testing.T, text []byte) *tuningResult {
	t.Helper()
	r := &tuningResult{}
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return r
}

// An invalid file is reported before the search.
func TestTuneRefusesAnInvalidFile(t *testing.T) {
	t.Parallel()
	settings := filepath.Join(t.TempDir(), "model.yaml")
	putFile(t, settings, []byte("qualty: 90\n"))
	startTune(t, append(short, "--write", settings, module("negate.pt"))...).expect(1, "", settings+": line 1: unknown setting \"qualty\"; did you mean quality?")
}

func TestTuneModelThatCantBeServed(t *testing.T) {
	t.Parallel()
	tu := startTune(t, append(short, module("checkpoint.pth"))...)
	tu.expect(1, "", "torchherd: can't serve "+module("checkpoint.pth"))
	if tu.out.Len() > 0 || !strings.Contains(tu.stderr[len(tu.stderr)-1], "torchherd_tools export") {
		t.Error("the last line isn't the reason that serve gave")
	}
}

// The model can be loaded, but every image that is sent fails.
func TestTuneWithImagesThatFail(t *testing.T) {
	t.Parallel()
	tu := startTune(t, append(short, "--picture", photographPath("jpeg-gray.jpg"), module("negate.pt"))...)
	tu.expect(1, "", "images failed: status 422")
}

// The model accepts only single images, and no settings can meet the target: the defaults are a row with the reason, and
// the closest settings are printed. The path is long, which must not hide the reason, and a shell needs it quoted.
func TestTuneMissesTheTarget(t *testing.T) {
	t.Parallel()
	model := filepath.Join(t.TempDir(), "models of Jürgen", strings.Repeat("x", 100), "no_batch_two.pt")
	putFile(t, model, goldens.Read(t, "modules/no_batch_two.pt"))
	tu := startTune(t, append(short, "--clients=1", "--target-p99=1us", "--quiet", model)...)
	tu.expect(3, "No settings keep the p99 at or below 1µs with 1 clients", "no settings meet --target-p99 1µs")
	for _, part := range []string{
		"can't serve …/no_batch_two.pt: ", "the model can't be batched", "The defaults can't be used",
		"serve '" + model + "' --max-batch-size 1",
	} {
		if !strings.Contains(tu.out.String(), part) {
			t.Errorf("no %q in stdout", part)
		}
	}
	if len(tu.stderr) != 1 {
		t.Errorf("--quiet printed %q", tu.stderr)
	}
}

// A signal stops the running server, whether it is starting or ready, and the results so far are printed.
func TestTuneInterrupted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		at     string
		signal syscall.Signal
	}{
		{"round 1: defaults: ", interrupt}, // its second line: it is done, and the next server is starting
		{"round 2: --max-batch-size 1: sending", terminate},
	} {
		tu := startTune(t, append(short, "--duration=300ms", module("negate.pt"))...)
		tu.await("round 1: defaults: sending")
		tu.await(test.at)
		if err := tu.process.Process.Signal(test.signal); err != nil {
			t.Fatal(err)
		}
		tu.expect(0, "Interrupted; these are the results so far.", "")
	}
}

// A terminal sends SIGINT to the whole group, the server included.
func TestTuneInterruptedByTheTerminal(t *testing.T) {
	t.Parallel()
	tu := startTune(t, "--duration=1h", "--budget=2h", module("negate.pt"))
	tu.await("round 1: defaults: sending")
	if err := syscall.Kill(-tu.process.Process.Pid, interrupt); err != nil {
		t.Fatal(err)
	}
	tu.expect(1, "", "interrupted before anything was measured")
}

// A server must not outlive tune, even if that is killed. The server inherits a pipe, whose reading end sees the end of
// the file when the server has exited.
func TestServerEndsWithTune(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can end a process together with its parent")
	}
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reading.Close() }()
	// In the server, the pipe of its readiness replaces the first descriptor.
	tu := startTuneWith(t, []*os.File{writing, writing}, "--duration=1h", "--budget=2h", module("negate.pt"))
	_ = writing.Close()
	tu.await("round 1: defaults: sending")
	if err := tu.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := reading.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := reading.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the server is still running: %v", err)
	}
	_ = tu.process.Wait()
}
