package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/loadgen"
	"github.com/torchherd/torchherd/server/internal/tune"
)

// The whole command is tested in server/tune_test.go, because here os.Executable isn't torchherd.

func TestTuneUsage(t *testing.T) {
	for _, test := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"--clients=0"}, "clients 0"},
		{[]string{"--clients=4097"}, "1 to 4096"},
		{[]string{"--target-p99=-1s"}, "target p99 -1s"},
		{[]string{"--target-p99=fast"}, "--target-p99"},
		{[]string{"--min-psnr=-1"}, "min psnr -1"},
		{[]string{"--min-psnr=NaN"}, "min psnr NaN"},
		{[]string{"--duration=0s"}, "duration 0s"},
		{[]string{"--duration=2h"}, "at most 1h"},
		{[]string{"--budget=0s"}, "budget 0s"},
		{[]string{"--picture=nothing.jpg"}, "nothing.jpg"},
		{[]string{"--size=228"}, "228x228"},
		{[]string{"--device=gpu"}, "cuda:N"},
		{[]string{"--max-batch-size=4"}, "unknown flag"},
		{[]string{"a.pt", "b.pt"}, "b.pt"},
	} {
		status, out, err := run(append([]string{"tune"}, test.arguments...)...)
		if status != 2 || out != "" || !strings.Contains(err, test.want) ||
			!strings.Contains(err, "torchherd tune --help") {
			t.Errorf("%v: got status %d, stdout %q, stderr %q, want status 2 and %q", test.arguments, status, out, err, test.want)
		}
	}
}

func TestTuneHelp(t *testing.T) {
	status, out, _ := run("tune", "--help")
	for _, part := range []string{"--target-p99", "--min-psnr", "The exit status is", "--max-queue-size follows --clients"} {
		if status != 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), part) {
			t.Errorf("got status %d, want 0 and %q in %s", status, part, out)
		}
	}
}

// The command line that tune prints omits the defaults of serve, so tune must have the same.
func TestTuneHasTheDefaultsOfServe(t *testing.T) {
	s, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	m := settingsOf(s)
	got := tune.Settings{
		MaxBatchSize: m.MaxBatchSize, Threads: m.Threads, Instances: m.Instances, MaxWait: m.MaxWait,
		Precision: m.Precision.String(), CUDAGraphs: m.CUDAGraphs,
	}
	if got != tune.Defaults() || m.MaxQueueSize != tune.QueueSize(1) {
		t.Errorf("got %+v with a queue of %d, want %+v with one of %d", got, m.MaxQueueSize, tune.Defaults(), tune.QueueSize(1))
	}
}

func TestTuneRecognizesPackages(t *testing.T) {
	for name, want := range map[string]bool{"": false, "negate.pt": false, "negate.pt2": true} {
		command := Tune{}
		if name != "" {
			command.Model = goldens.Path("modules/" + name)
		}
		if got := command.config().KeepPrecision; got != want {
			t.Errorf("%q: keep the precision = %v, want %v", name, got, want)
		}
	}
}

func TestTuneReportsAFileThatCantBeRead(t *testing.T) {
	// A folder counts as an existing file until it is read.
	status, _, err := run("tune", "--picture", goldens.Path("pictures"))
	if status == 0 || !strings.Contains(err, "pictures") {
		t.Errorf("got status %d, %q, want an error with \"pictures\"", status, err)
	}
}

func TestTuningProgressWithoutATerminal(t *testing.T) {
	var b strings.Builder
	show := newProgressLine(&b).tune("/long/path/model.pt")
	larger := tune.Defaults()
	larger.MaxBatchSize = 4
	for _, p := range []tune.Progress{
		{Stage: tune.Starting},
		{Stage: tune.Sending, Elapsed: time.Second},
		{Stage: tune.Sending, Elapsed: 2 * time.Second, Load: loadgen.Progress{Good: 10, Goodput: 10}},
		{Stage: tune.Sending, Elapsed: 6 * time.Second, Load: loadgen.Progress{Good: 50, Goodput: 9.5}},
		{Stage: tune.Done, Elapsed: 7 * time.Second, Measured: tune.Measurement{ImagesPerSecond: 9.8, P99: 123.4}},
		{Stage: tune.Done, Elapsed: 8 * time.Second, Err: errors.New("can't serve /long/path/model.pt: no room\nat all")},
	} {
		p.Round, p.Settings = 2, larger
		show(p)
	}
	want := `  1 s  round 2: --max-batch-size 4: sending
  6 s  round 2: --max-batch-size 4: 50 images, last second: 9.5/s
  7 s  round 2: --max-batch-size 4: 9.8 images/s, p99 123.4 ms
  8 s  round 2: --max-batch-size 4: can't serve …/model.pt: no room
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}
