package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// A benchmark is a running `torchherd bench`.
type benchmark struct {
	t           *testing.T
	process     *exec.Cmd
	out, stderr bytes.Buffer
}

func startBench(t *testing.T, arguments ...string) *benchmark {
	t.Helper()
	arguments = append([]string{"bench", "--quiet", "--json", "-"}, arguments...)
	b := &benchmark{t: t, process: exec.CommandContext(t.Context(), os.Args[0], arguments...)}
	b.process.Env = append(os.Environ(), beTheCommand+"=1")
	b.process.Stdout, b.process.Stderr = &b.out, &b.stderr
	if err := b.process.Start(); err != nil {
		t.Fatal(err)
	}
	return b
}

// result waits for the process, checks its exit status and returns its result. The status is 0, or 3 if the load generator
// fell behind, which it can do on a busy machine.
func (b *benchmark) result() *loadgen.Result {
	b.t.Helper()
	err := b.process.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	r := &loadgen.Result{}
	if err := json.Unmarshal(b.out.Bytes(), r); err != nil {
		b.t.Fatalf("%v in %q; stderr: %q", err, &b.out, &b.stderr)
	}
	want := 0
	if r.Saturation.FellBehind {
		want = 3
	}
	if status := b.process.ProcessState.ExitCode(); status != want {
		b.t.Errorf("got status %d, want %d: %+v; stderr: %q", status, want, r.Saturation, &b.stderr)
	}
	return r
}

func TestBenchMeasuresServe(t *testing.T) {
	t.Parallel()
	s := start(t, "--max-batch-size", "8", "--max-queue-size", "16", module("negate.pt"))
	r := startBench(t, s.url+"/image", "--clients", "16", "--requests", "200",
		"--duration", limit.String(), "--warm-up", "0s").result()
	if r.Mode != loadgen.Closed || r.Clients != 16 || r.Requests != 200 || r.Good != 200 ||
		r.Statuses[200] != 200 || len(r.Errors) != 0 {
		t.Errorf("got %+v, want 200 good responses", r)
	}
	images, largest := 0, 0
	for size, count := range r.BatchSizes {
		images, largest = images+count, max(largest, size)
	}
	if images != 200 || largest < 2 || largest > 8 {
		t.Errorf("batch sizes by response = %v, want 200 responses, the largest size 2 to 8", r.BatchSizes)
	}
	for _, stage := range []string{"receive", "decode", "queue", "forward", "encode"} {
		if s, ok := r.Stages[stage]; !ok || s.P99 > r.Latency.Max {
			t.Errorf("%s: got %+v, want at most the latency", stage, s)
		}
	}
	responses := 0
	for _, n := range r.Throughput {
		responses += n
	}
	if l := r.Latency; responses != 200 || r.Goodput <= 0 ||
		!slices.IsSorted([]float64{l.P50, l.P90, l.P95, l.P99, l.P999, l.Max}) {
		t.Errorf("got %+v, want the throughput of 200 responses and sorted percentiles", r)
	}
}

func TestCtrlCEndsBenchWithAResult(t *testing.T) {
	t.Parallel()
	s := start(t, "--max-batch-size", "8", "--max-queue-size", "16", module("negate.pt"))
	b := startBench(t, s.url+"/image", "--duration", limit.String(), "--warm-up", "0s")
	s.log.awaitCount(t, 100, "request_id", nil, "status", nil)
	if err := b.process.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if r := b.result(); !r.Interrupted || r.Good < 100-16 || r.Good != r.Requests || r.Seconds >= limit.Seconds() {
		t.Errorf("got %+v, want an interrupted run with good responses only", r)
	}
}
