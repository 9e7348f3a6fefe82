package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/torchherd/torchherd/server/internal/tune"
)

// A tuning is a running `torchherd tune`. It and its servers are a process group of their own.
type tuning struct {
	t       *testing.T
	process *exec.Cmd
	out     bytes.Buffer
	stderr  []string // lines that were read
	lines   *bufio.Scanner
}

func startTune(t *testing.T, arguments ...string) *tuning {
	t.Helper()
	tu := &tuning{t: t, process: exec.Command(os.Args[0], append([]string{"tune"}, arguments...)...)}
	tu.process.Env = append(os.Environ(), beTheCommand+"=1")
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

// kill ends the whole group, if there is anything left of it.
func (tu *tuning) kill() { _ = syscall.Kill(-tu.process.Process.Pid, syscall.SIGKILL) }

// await reads stderr up to a line that has this text.
func (tu *tuning) await(text string) {
	tu.t.Helper()
	for tu.lines.Scan() {
		tu.stderr = append(tu.stderr, tu.lines.Text())
		if strings.Contains(tu.lines.Text(), text) {
			return
		}
	}
	tu.t.Fatalf("it ended without saying %q", text)
}

// wait waits for the end and returns the exit status. No server may be left then.
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
		tu.t.Errorf("a process of its group is left: %v", err)
	}
	return tu.process.ProcessState.ExitCode()
}

// expect compares the end with a status and parts of what was printed.
func (tu *tuning) expect(status int, out, stderr string) {
	tu.t.Helper()
	if got := tu.wait(); got != status || !strings.Contains(tu.out.String(), out) ||
		!strings.Contains(strings.Join(tu.stderr, "\n"), stderr) {
		tu.t.Errorf("status %d instead of %d, or no %q or %q", got, status, out, stderr)
	}
}

// short makes rounds as small as they get.
var short = []string{"--duration=1ms", "--budget=5m", "--clients=2"}

// The whole command against real servers; then a server by the command line that it found.
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
	taken := r.Taken.Settings
	want := fmt.Sprintf("# mine\nquality: 90\nmax-batch-size: %s # for now\ninstances: %s\nthreads: %s\nprecision: %s\ncuda-graphs: false\nmax-wait: %s\nmax-queue-size: 3\n",
		taken["max-batch-size"], taken["instances"], taken["threads"], taken["precision"], taken["max-wait"])
	if err != nil || string(written) != want {
		t.Errorf("%v, written was %s instead of %s", err, written, want)
	}
	if r.BudgetSpent || r.Interrupted || !r.MetTarget || r.SpeedUp <= 0 || r.Taken.Rounds != 3 {
		t.Errorf("%+v", r)
	}
	var tried []string
	for _, trial := range r.Trials {
		m := trial.Measurement
		if trial.Failure != "" || m.ImagesPerSecond <= 0 || m.P50 <= 0 || m.P99 < m.P50 || m.Threads < 1 || m.CUDA {
			t.Errorf("%+v", trial)
		}
		if fp32, same := trial.Settings["precision"] == "fp32", m.PSNR == 0; fp32 != same || !same && m.PSNR < 35 {
			t.Errorf("%v has %v dB", trial.Settings, m.PSNR)
		}
		tried = append(tried, trial.Settings["max-batch-size"], trial.Settings["precision"])
	}
	for _, value := range []string{"1", "2", "fp32", "bf16"} {
		if !slices.Contains(tried, value) {
			t.Errorf("%q wasn't tried: %v", value, tried)
		}
	}
	c := r.Command
	if len(c) < 5 || !slices.Equal(c[:3], []string{"torchherd", "serve", module("negate.pt")}) ||
		!slices.Equal(c[len(c)-2:], []string{"--size", "64x32"}) {
		t.Fatalf("%q", c)
	}
	expectImage(t, start(t, c[2:]...).put(photograph(t, "jpeg-small.jpg")))
}

// A tuningResult is tune.Result as its JSON has it: with flags in the place of settings.
type tuningResult struct {
	tune.Result
	Trials []tuningTrial `json:"trials"`
	Taken  tuningTrial   `json:"taken"`
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

// A file that can't be written to is told of before the time is spent.
func TestTuneRefusesWrongSettings(t *testing.T) {
	t.Parallel()
	settings := filepath.Join(t.TempDir(), "model.yaml")
	putFile(t, settings, []byte("qualty: 90\n"))
	startTune(t, append(short, "--write", settings, module("negate.pt"))...).expect(1, "", settings+": line 1: there is no setting \"qualty\"; is quality meant?")
}

func TestTuneAModelThatCantBeServed(t *testing.T) {
	t.Parallel()
	tu := startTune(t, append(short, module("checkpoint.pth"))...)
	tu.expect(1, "", "torchherd: can't serve "+module("checkpoint.pth"))
	if tu.out.Len() > 0 || !strings.Contains(tu.stderr[len(tu.stderr)-1], "export it") {
		t.Error("serve's own reason isn't the last line")
	}
}

// A model that answers no picture of those that are sent, though it can be loaded.
func TestTuneAModelThatFails(t *testing.T) {
	t.Parallel()
	tu := startTune(t, append(short, "--picture", photographPath("jpeg-gray.jpg"), module("negate.pt"))...)
	tu.expect(1, "", "pictures failed: status 422")
}

// A model that takes single pictures only, and an aim that nothing can reach: the defaults are a row with the reason,
// and the nearest settings are printed.
func TestTuneMissesTheTarget(t *testing.T) {
	t.Parallel()
	tu := startTune(t, append(short, "--clients=1", "--target-p99=1us", "--quiet", module("no_batch_two.pt"))...)
	tu.expect(3, "No settings keep the p99 at 1µs or below with 1 clients", "no settings keep to --target-p99 1µs")
	for _, part := range []string{
		"the warm-up with 2 picture(s)", "The defaults can't be used",
		"serve " + module("no_batch_two.pt") + " --max-batch-size 1",
	} {
		if !strings.Contains(tu.out.String(), part) {
			t.Errorf("no %q", part)
		}
	}
	if len(tu.stderr) != 1 {
		t.Errorf("--quiet isn't: %q", tu.stderr)
	}
}

// A signal ends the server that is running, be it while it starts or while it works, and what is known is printed.
func TestTuneInterrupted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		at     string
		signal syscall.Signal
	}{
		{"round 1: defaults: ", interrupt}, // that it is done, so the next server is being started
		{"round 2: --max-batch-size 1: sending", terminate},
	} {
		tu := startTune(t, append(short, "--duration=300ms", module("negate.pt"))...)
		tu.await("round 1: defaults: sending")
		tu.await(test.at)
		if err := tu.process.Process.Signal(test.signal); err != nil {
			t.Fatal(err)
		}
		tu.expect(0, "Interrupted; this is what was known by then.", "")
	}
}

// A terminal sends its Ctrl-C to the whole group, the server included.
func TestTuneInterruptedByATerminal(t *testing.T) {
	t.Parallel()
	tu := startTune(t, "--duration=1h", "--budget=2h", module("negate.pt"))
	tu.await("round 1: defaults: sending")
	if err := syscall.Kill(-tu.process.Process.Pid, interrupt); err != nil {
		t.Fatal(err)
	}
	tu.expect(1, "", "interrupted before anything was measured")
}
