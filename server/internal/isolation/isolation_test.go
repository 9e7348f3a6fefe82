package isolation

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/torch"
)

// TestMain lets this program be a runner's child, which can then say what it may do.
func TestMain(m *testing.M) {
	probe = probeSandbox
	Main()
	os.Exit(m.Run())
}

// start starts a runner of a model. The test's end closes it.
func start(t *testing.T, path string, change func(*Config)) *Runner {
	t.Helper()
	r, err := tryStart(t, t.Context(), path, change)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryStart(t *testing.T, ctx context.Context, path string, change func(*Config)) (*Runner, error) {
	t.Helper()
	arena := newArena(t)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	config := Config{Model: Model{Name: path, File: file}, Options: torch.Options{PackageFolder: t.TempDir()}, Arena: arena, Log: zerolog.Nop()}
	if change != nil {
		change(&config)
	}
	r, err := Start(ctx, config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(config.Options.PackageFolder + "/*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return r, nil
}

func newArena(t *testing.T) *Arena {
	t.Helper()
	arena, err := NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if len(arena.used) > 0 {
			t.Errorf("%d blocks are still in use", len(arena.used))
		}
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	return arena
}

func module(name string) string { return goldens.Path("modules/" + name) }

// flat returns a batch of images of one value each.
func flat(width, height int, values ...byte) torch.Images {
	batch := torch.Images{Width: width, Height: height, Channels: 3}
	for _, value := range values {
		batch.Items = append(batch.Items, bytes.Repeat([]byte{value}, width*height*3))
	}
	return batch
}

// run runs a batch and checks that its results have these values.
func run(t *testing.T, r *Runner, batch torch.Images, width, height, channels int, want ...byte) {
	t.Helper()
	answer, err := r.Start(batch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := answer.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.free(out.Items)
	if out.Width != width || out.Height != height || out.Channels != channels || len(out.Items) != len(want) {
		t.Fatalf("%d results of %dx%dx%d, want %d of %dx%dx%d", len(out.Items), out.Width, out.Height, out.Channels, len(want), width, height, channels)
	}
	for i, item := range out.Items {
		if len(item) != width*height*channels || item[0] != want[i] || item[len(item)-1] != want[i] {
			t.Errorf("result %d has %d bytes, %d to %d, want %d", i, len(item), item[0], item[len(item)-1], want[i])
		}
	}
}

func TestARunnerRunsBatches(t *testing.T) {
	t.Parallel()
	r := start(t, module("negate.pt"), nil)
	if err := errors.Join(r.Bind(cpu.NewShares(), "model", 1), r.SetThreads(2)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the shape of the results is unknown, and then known
		run(t, r, flat(4, 3, 0, 100), 4, 3, 3, 255, 155)
		run(t, r, flat(5, 6, 7), 5, 6, 3, 248)
	}
	shared := flat(4, 3, 10)
	memory := r.config.Arena.Alloc(len(shared.Items[0]))
	copy(memory, shared.Items[0])
	shared.Items[0] = memory
	run(t, r, shared, 4, 3, 3, 245)
	r.config.Arena.Free(memory)
	if err := r.CheckFinite(flat(4, 3, 1)); err != nil {
		t.Error(err)
	}
	if r.ProcessorTime() <= 0 {
		t.Errorf("the child used %v of processor time", r.ProcessorTime())
	}
	run(t, start(t, module("upscale2.pt"), nil), flat(4, 3, 9), 8, 6, 3, 9)
	run(t, start(t, module("gray.pt"), nil), flat(4, 3, 9), 4, 3, 1, 9)
	content := func(c *Config) { c.Model.File, c.Model.Content = nil, goldens.Read(t, "modules/negate.pt") }
	run(t, start(t, module("negate.pt"), content), flat(4, 3, 9), 4, 3, 3, 246)
	run(t, start(t, module("negate.pt"), func(c *Config) { c.Background = true }), flat(4, 3, 9), 4, 3, 3, 246)
}

func TestAPackageIsUnpackedInTheScratchFolder(t *testing.T) {
	t.Parallel()
	run(t, start(t, module("negate.pt2"), nil), flat(32, 24, 9), 32, 24, 3, 246)
}

// The description and the settings of a load cross unchanged, also where they have no text.
func TestTheDescriptionCrosses(t *testing.T) {
	t.Parallel()
	r := start(t, module("identity.pt"), func(c *Config) {
		c.Options.Values = torch.Values{Channels: torch.BGR, Input: torch.Range{Low: -1, High: 1}, Output: torch.Range{Low: 1, High: -1}}
	})
	run(t, r, flat(4, 3, 51), 4, 3, 3, 204) // -0.6, of -1 to 1, is 0.8 of 1 to -1
	if got := r.Info(); got.Device != torch.CPU || got.Precision != torch.FP32 || len(got.Inputs) != 1 {
		t.Errorf("%+v", got)
	}
	text, err := json.Marshal(loadReply{Precision: int32(torch.AsCompiled)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.describe(r.process, text); err != nil || r.Info().Precision != torch.AsCompiled {
		t.Errorf("got %v, %v", r.Info().Precision, err)
	}
}

// Errors of the model are the same as without a child, and the child goes on.
func TestErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]error{"garbage.pt": torch.ErrNotAModule, "checkpoint.pth": torch.ErrNotAModule} {
		if _, err := tryStart(t, t.Context(), module(name), nil); !errors.Is(err, kind) {
			t.Errorf("%s: got %v, want %v", name, err, kind)
		}
	}
	r := start(t, module("fails_on_black.pt"), nil)
	for range 2 {
		if _, err := r.Start(flat(4, 3, 0)); !errors.Is(err, torch.ErrForward) || !strings.Contains(err.Error(), "refuses a black picture") {
			t.Errorf("got %v, want the model's own error", err)
		}
		run(t, r, flat(4, 3, 9), 4, 3, 3, 9)
	}
	if err := start(t, module("nan.pt"), nil).CheckFinite(flat(4, 3, 9)); !errors.Is(err, torch.ErrOutput) {
		t.Errorf("got %v, want %v", err, torch.ErrOutput)
	}
}

func TestACrashNamesItsCause(t *testing.T) {
	t.Parallel()
	for signal, want := range map[syscall.Signal]string{
		syscall.SIGSEGV: "SIGSEGV (segmentation fault)", syscall.SIGABRT: "SIGABRT (aborted)", syscall.SIGKILL: "SIGKILL (killed), by the kernel",
	} {
		r := start(t, module("negate.pt"), nil)
		if err := r.process.command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		var crash *CrashError
		if _, err := r.Start(flat(4, 3, 1)); !errors.As(err, &crash) || !strings.HasPrefix(crash.Cause, want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	r := start(t, goldens.Script(t, goldens.CrashesOnWhite), nil)
	run(t, r, flat(4, 3, 1), 4, 3, 3, 1)
	if _, err := r.Start(flat(4, 3, 1, 255)); err == nil || err.Error() != "SIGFPE (floating point exception)" {
		t.Errorf("got %v, want SIGFPE", err)
	}
	if _, err := r.Start(flat(4, 3, 1)); err == nil || !strings.Contains(err.Error(), "SIGFPE") || r.Healthy() == nil {
		t.Errorf("a runner without supervision goes on: %v, %v", err, r.Healthy())
	}
}

// The end of the load's context ends whatever the child does; its cause is the error.
func TestTheContextEndsACall(t *testing.T) {
	t.Parallel()
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := tryStart(t, ctx, goldens.Script(t, goldens.HangsOnWhite), nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := r.Start(flat(4, 3, 255)); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	if _, err := tryStart(t, ctx, module("negate.pt"), nil); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
}

// supervise makes a runner replace its child.
func supervise(t *testing.T, r *Runner, limit time.Duration) {
	t.Helper()
	if err := r.Bind(cpu.NewShares(), "model", 1); err != nil {
		t.Fatal(err)
	}
	r.Supervise(Supervision{BatchLimit: func(torch.Images) time.Duration { return limit }, StartLimit: time.Minute, WarmUp: func(run func(torch.Images) error) error { return run(flat(4, 3, 1)) }})
}

// It isn't parallel: it counts descriptors.
func TestASupervisedRunnerComesBack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, err := tryStart(t, ctx, goldens.Script(t, goldens.HangsOnWhite), nil)
	if err != nil {
		t.Fatal(err)
	}
	supervise(t, r, time.Second)
	cancel() // the load's context
	before := descriptors(t)
	for range 2 {
		_, err := r.Start(flat(4, 3, 255))
		if crash := (*CrashError)(nil); !errors.As(err, &crash) || !strings.Contains(crash.Cause, "longer than 1s") {
			t.Errorf("got %v, want the limit", err)
		}
		run(t, r, flat(4, 3, 1), 4, 3, 3, 1) // waits for the new child
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if err := r.Healthy(); err != nil {
		t.Error(err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A child that ends again and again without a good batch is reported, and so is one whose file was written to.
func TestAFailureIsReported(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "model.pt")
	if err := os.WriteFile(path, goldens.Read(t, "modules/negate.pt"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, path, nil)
	supervise(t, r, time.Minute)
	r.ends = reportedAfter - 2
	if err := os.WriteFile(path, goldens.Read(t, "modules/identity.pt"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.process.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(flat(4, 3, 1)); err == nil {
		t.Error("a killed child answers")
	}
	if err := <-r.Failed(); !strings.Contains(err.Error(), "was written to") {
		t.Errorf("got %v", err)
	}
	if r.Healthy() == nil {
		t.Error("healthy without a child")
	}
}

func TestDelays(t *testing.T) {
	t.Parallel()
	want := []time.Duration{0, 0, 0, 0, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second}
	for ends, delay := range want {
		if got := delayBefore(ends); got != delay {
			t.Errorf("after %d ends: %v, want %v", ends, got, delay)
		}
	}
	if got := delayBefore(1 << 40); got != longestDelay {
		t.Errorf("after very many: %v", got)
	}
}

// An attempt is what a child tried, and what came of it; empty: it succeeded.
type attempt map[string]string

// probeSandbox runs in the child.
func probeSandbox() []byte {
	results := attempt{}
	note := func(name string, err error) {
		results[name] = ""
		if err != nil {
			results[name] = err.Error()
		}
	}
	_, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", "127.0.0.1:1")
	note("connect", err)
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	note("socket", err)
	_, err = os.ReadFile("/etc/passwd")
	note("read", err)
	note("write", os.WriteFile("/var/tmp/torchherd-probe", nil, 0o600))
	note("scratch", os.WriteFile(filepath.Join(os.Getenv("TMPDIR"), "probe"), nil, 0o600))
	note("exec", syscall.Exec("/bin/true", []string{"true"}, nil))
	_, err = syscall.ForkExec("/bin/true", []string{"true"}, nil)
	note("fork", err)
	note("signal", syscall.Kill(os.Getppid(), 0))
	note("own signal", syscall.Kill(os.Getpid(), 0))
	note("ptrace", unix.PtraceAttach(os.Getppid()))
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	if err == nil {
		err = fmt.Errorf("%d bytes", len(environ))
	}
	note("environ", err)
	text, err := json.Marshal(results)
	if err != nil {
		panic(err)
	}
	return text
}

func TestAChildIsRestricted(t *testing.T) {
	t.Parallel()
	r := start(t, module("negate.pt"), nil)
	if lacking := r.Lacking(); len(lacking) > 0 {
		t.Skipf("this kernel lacks something: %v", lacking)
	}
	got, err := r.ask(r.process, binary.LittleEndian.AppendUint32(nil, uint32(opProbe)))
	if err != nil {
		t.Fatal(err)
	}
	results := attempt{}
	if err := json.Unmarshal(got.text, &results); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"connect": "operation not permitted", "socket": "operation not permitted", "exec": "operation not permitted", "fork": "operation not permitted",
		"signal": "operation not permitted", "ptrace": "operation not permitted", "read": "permission denied", "environ": "permission denied", "write": "permission denied",
		"scratch": "", "own signal": "",
	} {
		result, tried := results[name]
		if !tried || (result == "") != (want == "") || !strings.Contains(result, want) {
			t.Errorf("%s: got %q, want %q", name, result, want)
		}
	}
	run(t, r, flat(4, 3, 1), 4, 3, 3, 254)
}

func TestArena(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	first := a.Alloc(100_000)
	first[0], first[99_999] = 1, 2
	if len(first) != 100_000 || !a.Free(first) {
		t.Errorf("%d bytes", len(first))
	}
	if second := a.Alloc(101_000); &second[0] != &first[0] || !a.Free(second) {
		t.Error("a block of the same class isn't used again")
	}
	if a.Free(make([]byte, 10)) || a.Free(nil) {
		t.Error("memory outside the arena was taken")
	}
	// Free memory beyond the limit has no pages, and neither has an idle arena.
	var large [][]byte
	for range 3 {
		large = append(large, a.Alloc(mostKept/2))
		clear(large[len(large)-1])
	}
	for _, each := range large {
		a.Free(each)
	}
	if pages := arenaPages(t, a); pages > mostKept+(1<<20) {
		t.Errorf("%d bytes are kept, want at most %d", pages, mostKept)
	}
	a.mu.Lock()
	a.lastUse = time.Now().Add(-idleTime)
	a.mu.Unlock()
	a.trim()
	if pages := arenaPages(t, a); pages > 0 {
		t.Errorf("%d bytes are kept while idle", pages)
	}
	for size := 1; size < 1<<30; size = size*5/4 + 1 {
		if class := classOf(size); class < size || class > size*5/4+2*os.Getpagesize() || classOf(class) != class {
			t.Errorf("class of %d: %d", size, class)
		}
	}
}

func arenaPages(t *testing.T, a *Arena) int64 {
	t.Helper()
	var status unix.Stat_t
	if err := unix.Fstat(int(a.file.Fd()), &status); err != nil {
		t.Fatal(err)
	}
	return status.Blocks * 512
}

func TestMessages(t *testing.T) {
	t.Parallel()
	sent := batchRequest{height: 1, width: 2, channels: 3, inputs: []uint64{4, 5}, outHeight: 6, outWidth: 7, outChannels: 1, outputs: []uint64{8}}
	message := sent.append(nil, opForward)
	var got batchRequest
	if err := got.parse(message[4:]); err != nil || got.outputs[0] != 8 || got.inputs[1] != 5 || got.outWidth != 7 {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range len(message) - 4 {
		if err := got.parse(message[4 : 4+n]); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, len(message)-4)
		}
	}
}

// A child that takes more memory than its limit gets an error, or ends. Where it may have a cgroup, that has the limit too.
func TestTheMemoryOfAChildIsLimited(t *testing.T) {
	t.Parallel()
	const body = `
    y = torch.repeat(x, [1, 1, 1000, 1])
    while bool(torch.gt(torch.sum(x), -1.)):
      y = torch.cat([y, y])
    return y
`
	r := start(t, goldens.Script(t, body), func(c *Config) { c.MaxMemory = 1 << 30 })
	if r.process.cgroup != "" {
		limits, err := filepath.Glob(r.process.cgroup + "/memory.*max*")
		if err != nil || len(limits) == 0 {
			t.Errorf("%s has no limits: %v", r.process.cgroup, err)
		}
	}
	_, err := r.Start(flat(64, 64, 1))
	var crash *CrashError
	if !errors.Is(err, torch.ErrOutOfMemory) && !errors.Is(err, torch.ErrForward) && !errors.As(err, &crash) {
		t.Errorf("got %v", err)
	}
	folder := r.process.cgroup
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(folder); err == nil {
		t.Errorf("%s is left", folder)
	}
}

func TestAvailableMemory(t *testing.T) {
	t.Parallel()
	if got := AvailableMemory(); got < 64<<20 {
		t.Errorf("%d bytes", got)
	}
}
