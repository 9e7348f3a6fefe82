package tune_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
	"github.com/torchherd/torchherd/server/internal/tune"
)

// A machine is a Measurer with made-up figures. A measurement takes some time by the fake clock. The speed varies by up to
// 2 % in either direction, always in the same way.
type machine struct {
	speed func(tune.Settings) float64 // images per second; 0: the settings can't be served
	p99   func(tune.Settings) float64 // in ms; nil: 100
	psnr  float64                     // of every precision but fp32
	cuda  bool
	takes time.Duration // one measurement; 0: 4 s
	err   error         // for settings that can't be served; nil: a text with the settings

	measured []tune.Settings
}

func (m *machine) Measure(ctx context.Context, s tune.Settings, progress func(loadgen.Progress)) (tune.Measurement, error) {
	m.measured = append(m.measured, s)
	takes := m.takes
	if takes == 0 {
		takes = 4 * time.Second
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return tune.Measurement{}, errors.New("the server was stopped")
	}
	progress(loadgen.Progress{})
	speed := m.speed(s)
	if speed == 0 {
		return tune.Measurement{}, cmp.Or(m.err, fmt.Errorf("can't serve with %v", s))
	}
	h := fnv.New32a()
	fmt.Fprint(h, s, len(m.measured))
	speed *= 1 + 0.02*(float64(h.Sum32()%2001)/1000-1)
	found := tune.Measurement{ImagesPerSecond: speed, P50: 50, P99: 100, CUDA: m.cuda, Threads: s.Threads}
	if m.p99 != nil {
		found.P99 = m.p99(s)
	}
	if s.Threads == 0 {
		found.Threads = cores
	}
	if s.Precision != "fp32" {
		found.PSNR = m.psnr
	}
	return found, nil
}

const cores = 4

// config returns a configuration with a generous budget.
func config() tune.Config {
	return tune.Config{
		Model: "model.pt", Clients: 16, Cores: cores, MinPSNR: 35, Duration: 3 * time.Second, Budget: time.Hour,
	}
}

// run searches on a machine, by a fake clock.
func run(t *testing.T, c tune.Config, m *machine) *tune.Result {
	t.Helper()
	r, err := tryRun(t, c, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryRun(t *testing.T, c tune.Config, m *machine, progress func(tune.Progress)) (r *tune.Result, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { r, err = tune.Run(t.Context(), c, m, progress) })
	return r, err
}

// command returns the flags of the result's command line.
func command(r *tune.Result) string { return strings.Join(r.Command[2:], " ") }

// byBatch returns a speed that depends only on the batch size.
func byBatch(speeds map[int]float64) func(tune.Settings) float64 {
	return func(s tune.Settings) float64 { return speeds[s.MaxBatchSize] }
}

func flat(tune.Settings) float64 { return 100 }

// times returns the factor if the condition holds, else 1.
func times(factor float64, condition bool) float64 {
	if condition {
		return factor
	}
	return 1
}

func TestFindsTheBestSettings(t *testing.T) {
	for _, test := range []struct {
		name    string
		machine machine
		want    string
	}{
		{
			"large batches", machine{speed: byBatch(map[int]float64{1: 10, 2: 18, 4: 30, 8: 40, 16: 33})},
			"--max-batch-size 8",
		},
		{
			"single images", machine{speed: byBatch(map[int]float64{1: 20, 2: 12, 4: 8, 8: 7, 16: 6})},
			"--max-batch-size 1",
		},
		{
			"many instances with one thread each",
			machine{speed: func(s tune.Settings) float64 { return 50 + 10*float64(s.Instances) - float64(s.Threads) }},
			"--instances 4 --threads 1",
		},
		{
			"few threads for each instance", // the server chooses too many
			machine{speed: func(s tune.Settings) float64 { return 100 * times(1.5, s.Instances == 2 && s.Threads == 2) }},
			"--instances 2 --threads 2",
		},
		{
			"a fast precision with a sufficient PSNR",
			machine{psnr: 48, speed: func(s tune.Settings) float64 { return 2 * times(2, s.Precision == "bf16") }},
			"--precision bf16",
		},
		{
			"a short wait",
			machine{speed: func(s tune.Settings) float64 { return 50 * times(1.3, s.MaxWait == 5*time.Millisecond) }},
			"--max-wait 5ms",
		},
		{
			"settings that depend on each other", // several instances need larger batches than one
			machine{speed: func(s tune.Settings) float64 {
				speed := byBatch(map[int]float64{1: 20, 2: 22, 4: 22, 8: 10, 16: 9})(s)
				if s.Instances == 4 {
					speed = byBatch(map[int]float64{1: 20, 2: 30, 4: 60, 8: 70, 16: 40})(s)
				}
				return speed
			}},
			"--max-batch-size 8 --instances 4 --threads 1",
		},
		{
			"a GPU with CUDA graphs",
			machine{cuda: true, psnr: 60, speed: func(s tune.Settings) float64 {
				return 900 * times(3, s.Precision == "fp16") * times(1.4, s.CUDAGraphs)
			}},
			"--precision fp16 --cuda-graphs",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := run(t, config(), &test.machine)
			want := "model.pt " + test.want + " --max-queue-size 16"
			if command(r) != want || !r.MetTarget || r.Chosen.Rounds != 3 || r.BudgetSpent || r.Interrupted {
				t.Errorf("got %s, want %s: %+v", command(r), want, r)
			}
			if r.SpeedUp < 1.05 {
				t.Errorf("%v times the speed of the defaults", r.SpeedUp)
			}
		})
	}
}

// A gain within the noise isn't worth a flag.
func TestChoosesTheSimplestWithinTheNoise(t *testing.T) {
	r := run(t, config(), &machine{speed: flat, psnr: 60})
	if r.Chosen.Settings != tune.Defaults() || r.Near < 2 || command(r) != "model.pt --max-queue-size 16" {
		t.Errorf("%s of %d", command(r), r.Near)
	}
	// Batches of 8 are 3 % faster than batches of 4, which are 40 % faster than the defaults.
	r = run(t, config(), &machine{speed: byBatch(map[int]float64{1: 50, 2: 70, 4: 100, 8: 103, 16: 90})})
	if r.Chosen.Settings.MaxBatchSize != 4 {
		t.Errorf("%s of %d", command(r), r.Near)
	}
}

// Settings with one lucky measurement in the search aren't chosen for it, since the interleaved rounds disprove it.
func TestLuckyMeasurementIsNotChosen(t *testing.T) {
	m := &machine{}
	m.speed = func(s tune.Settings) float64 {
		times := 0
		for _, before := range m.measured {
			if before == s {
				times++
			}
		}
		if s.MaxWait == 0 && times == 1 {
			return 300
		}
		return byBatch(map[int]float64{1: 80, 2: 100, 4: 150, 8: 120})(s)
	}
	if r := run(t, config(), m); r.Chosen.Settings.MaxBatchSize != 4 || r.Chosen.Settings.MaxWait != time.Second {
		t.Errorf("%s", command(r))
	}
}

// The finalists take turns, and the search measures no settings twice.
func TestRoundsAreInterleaved(t *testing.T) {
	m := &machine{speed: byBatch(map[int]float64{1: 80, 2: 100, 4: 150, 8: 120})}
	r := run(t, config(), m)
	searched, final := m.measured[:len(r.Trials)], m.measured[len(r.Trials):]
	for i, settings := range searched {
		if slices.Contains(searched[:i], settings) {
			t.Errorf("%v was measured twice: %v", settings, searched)
		}
	}
	n := len(final) / 3
	if n < 2 || len(final) != 3*n || !slices.Equal(final[:n], final[n:2*n]) || !slices.Equal(final[:n], final[2*n:]) ||
		!slices.Contains(final[:n], tune.Defaults()) || !slices.Contains(final[:n], r.Chosen.Settings) {
		t.Errorf("%v", final)
	}
}

func TestTarget(t *testing.T) {
	m := &machine{
		speed: byBatch(map[int]float64{1: 10, 2: 18, 4: 30, 8: 40, 16: 45}),
		p99:   func(s tune.Settings) float64 { return 50 * float64(s.MaxBatchSize) },
	}
	c := config()
	c.TargetP99 = 200 * time.Millisecond
	if r := run(t, c, m); r.Chosen.Settings.MaxBatchSize != 4 || !r.MetTarget {
		t.Errorf("%s, met: %v", command(r), r.MetTarget)
	}
	// The defaults don't meet the target, but other settings do.
	c.TargetP99 = 60 * time.Millisecond
	if r := run(t, c, m); r.Chosen.Settings.MaxBatchSize != 1 || !r.MetTarget {
		t.Errorf("%s, met: %v", command(r), r.MetTarget)
	}
	// No settings meet it: the closest are chosen.
	c.TargetP99 = 40 * time.Millisecond
	r := run(t, c, m)
	if r.Chosen.Settings.MaxBatchSize != 1 || r.MetTarget || r.Chosen.P99 != 50 {
		t.Errorf("%s, met: %v", command(r), r.MetTarget)
	}
	expectReport(t, r, "No settings keep the p99 at or below 40ms with 16 clients", "p99 above the target",
		"torchherd serve model.pt --max-batch-size 1 --max-queue-size 16")
}

func TestPrecisionWithALowPSNRIsNotChosen(t *testing.T) {
	m := &machine{psnr: 34.9, speed: func(s tune.Settings) float64 { return 2 * times(2, s.Precision == "bf16") }}
	r := run(t, config(), m)
	if r.Chosen.Settings != tune.Defaults() {
		t.Errorf("%s", command(r))
	}
	expectReport(t, r, "--precision bf16", "  34.9", "PSNR below 35 dB compared with fp32")
	c := config()
	c.MinPSNR = 34
	if r := run(t, c, m); r.Chosen.Settings.Precision != "bf16" {
		t.Errorf("%s", command(r))
	}
}

func TestPackageKeepsItsPrecision(t *testing.T) {
	m, c := &machine{speed: flat}, config()
	c.KeepPrecision = true
	run(t, c, m)
	for _, s := range m.measured {
		if s.Precision != "fp32" {
			t.Errorf("%v", s)
		}
	}
}

// No more images can be queued than there are clients.
func TestClientsLimitBatchesAndInstances(t *testing.T) {
	m := &machine{speed: func(s tune.Settings) float64 { return float64(s.MaxBatchSize * s.Instances) }}
	c := config()
	c.Clients = 2
	r := run(t, c, m)
	for _, s := range m.measured {
		if s.MaxBatchSize > 2 || s.Instances > 2 {
			t.Errorf("%v", s)
		}
	}
	if command(r) != "model.pt --instances 2 --threads 2" { // the default queue is large enough
		t.Errorf("%s", command(r))
	}
}

// With many cores only some numbers of instances are tried.
func TestManyCores(t *testing.T) {
	m := &machine{speed: func(s tune.Settings) float64 { return float64(s.Instances) }}
	c := config()
	c.Cores, c.Clients = 96, 64
	r := run(t, c, m)
	tried := map[int]bool{}
	for _, s := range m.measured {
		tried[s.Instances] = true
		if s.Threads > 0 && s.Instances*s.Threads != 96 {
			t.Errorf("%v on 96 cores", s)
		}
	}
	if len(tried) != 5 || r.Chosen.Settings.Instances != 48 {
		t.Errorf("%s of %v", command(r), tried)
	}
}

func TestFailuresAreRows(t *testing.T) {
	r := run(t, config(), &machine{speed: byBatch(map[int]float64{1: 10, 2: 20, 4: 30})})
	last := r.Trials[len(r.Trials)-1]
	if r.Chosen.Settings.MaxBatchSize != 4 || last.Failure != "can't serve with --max-batch-size 8" {
		t.Errorf("%s; %+v", command(r), r.Trials)
	}
	expectReport(t, r, "--max-batch-size 8", "can't serve with --max-batch-size 8")

	// The defaults can't be used.
	r = run(t, config(), &machine{speed: byBatch(map[int]float64{1: 10})})
	if r.Chosen.Settings.MaxBatchSize != 1 || r.SpeedUp != 0 {
		t.Errorf("%s: %v", command(r), r.SpeedUp)
	}
	expectReport(t, r, "can't serve with defaults", "The defaults can't be used")
}

func TestModelThatCantBeServed(t *testing.T) {
	m := &machine{speed: byBatch(nil)}
	_, err := tryRun(t, config(), m, nil)
	if err == nil || err.Error() != "can't serve with defaults" || len(m.measured) != 2 {
		t.Errorf("%v after %v", err, m.measured)
	}
}

// However long a measurement takes, the search keeps to the budget and returns the results so far.
func TestBudget(t *testing.T) {
	for _, seconds := range []time.Duration{4, 11, 25, 50, 59} {
		takes := seconds * time.Second
		m := &machine{speed: byBatch(map[int]float64{1: 10, 2: 20, 4: 30, 8: 40, 16: 50}), takes: takes}
		c := config()
		c.Budget = time.Minute
		r := run(t, c, m)
		if r.Seconds > 60 || !r.BudgetSpent || r.Chosen == nil {
			t.Errorf("with measurements of %v: %+v", takes, r)
		}
		expectReport(t, r, "The budget of 1m0s ran out before everything was tried")
		if takes == 11*time.Second && r.Chosen.Rounds == 0 {
			t.Errorf("no time was left for the interleaved rounds: %v", m.measured)
		}
	}
	c := config()
	c.Budget = time.Minute
	_, err := tryRun(t, c, &machine{speed: flat, takes: 2 * time.Minute}, nil)
	if err == nil || !strings.Contains(err.Error(), "--budget") {
		t.Errorf("%v", err)
	}
}

// An interrupted search returns the results so far, which is an error in the first round.
func TestInterrupt(t *testing.T) {
	for _, rounds := range []int{1, 3, 12, 13} {
		m := &machine{speed: byBatch(map[int]float64{1: 80, 2: 100, 4: 150, 8: 120})}
		var r *tune.Result
		var err error
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r, err = tune.Run(ctx, config(), m, func(p tune.Progress) {
				if p.Round == rounds && p.Stage == tune.Starting {
					cancel()
				}
			})
		})
		if len(m.measured) != rounds {
			t.Errorf("%d measurements after the interrupt in number %d", len(m.measured), rounds)
		}
		switch {
		case rounds == 1 && (err == nil || err.Error() != "interrupted before anything was measured"):
			t.Errorf("%v", err)
		case rounds > 1 && (err != nil || !r.Interrupted):
			t.Errorf("round %d: %v, %+v", rounds, err, r)
		case rounds > 1:
			expectReport(t, r, "Interrupted", "were measured only once")
		}
	}
}

func TestProgress(t *testing.T) {
	var stages []tune.Stage
	_, err := tryRun(t, config(), &machine{speed: flat}, func(p tune.Progress) {
		if p.Round == 1 {
			stages = append(stages, p.Stage)
		}
		if p.Stage == tune.Done && p.Err == nil && p.Measured.ImagesPerSecond == 0 {
			t.Errorf("%+v", p)
		}
	})
	if err != nil || !slices.Equal(stages, []tune.Stage{tune.Starting, tune.Sending, tune.Done}) {
		t.Errorf("%v, %v", stages, err)
	}
}

func expectReport(t *testing.T, r *tune.Result, parts ...string) {
	t.Helper()
	var b strings.Builder
	if err := r.WriteReport(&b); err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		if !strings.Contains(b.String(), part) {
			t.Errorf("no %q in\n%s", part, &b)
		}
	}
}

func TestReportAndJSON(t *testing.T) {
	c := config()
	c.Model, c.ExtraArguments = "my model's.pt", []string{"--size", "64x64"}
	r := run(t, c, &machine{speed: byBatch(map[int]float64{1: 10, 2: 100, 4: 180, 8: 120})})
	expectReport(t, r, "settings            ", "images/s  p50 ms  p99 ms", "chosen", "within 5 % of the fastest",
		`torchherd serve 'my model'\''s.pt' --max-batch-size 4 --max-queue-size 16 --size 64x64`,
		"1.8 times the images/s of the defaults")
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Chosen struct {
			Settings        map[string]string
			ImagesPerSecond float64 `json:"pictures_per_second"`
		} `json:"taken"`
		Command []string
		Trials  []struct{ Settings map[string]string }
	}
	if err := json.Unmarshal(text, &got); err != nil || got.Chosen.Settings["max-batch-size"] != "4" ||
		got.Chosen.Settings["precision"] != "fp32" || got.Chosen.ImagesPerSecond < 100 || len(got.Trials) != len(r.Trials) ||
		!slices.Equal(got.Command, r.Command) {
		t.Errorf("%v: %s", err, text)
	}
}

func TestValidate(t *testing.T) {
	for _, change := range []func(*tune.Config){
		func(c *tune.Config) { c.Clients = 0 },
		func(c *tune.Config) { c.Clients = 5000 },
		func(c *tune.Config) { c.TargetP99 = -1 },
		func(c *tune.Config) { c.MinPSNR = -1 },
		func(c *tune.Config) { c.Duration = 0 },
		func(c *tune.Config) { c.Budget = 0 },
	} {
		c := config()
		change(&c)
		if _, err := tune.Run(t.Context(), c, &machine{speed: flat}, nil); err == nil {
			t.Errorf("no error for %+v", c)
		}
	}
}

// A path of 150 characters, with a space and an umlaut, must not hide the reason behind it.
func TestRemarkShortensThePathAndNotTheReason(t *testing.T) {
	folder := "/folder of Jürgen/" + strings.Repeat("x", 150-len([]rune("/folder of Jürgen//no_batch_two.pt")))
	const reason = "model: the warm-up with 2 picture(s) of 228x228 failed: torch: forward: this is the reason"
	relative, err := filepath.Rel("/", folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("/")
	for model, path := range map[string]string{
		folder + "/no_batch_two.pt":  folder + "/no_batch_two.pt",
		relative + "/no_batch_two":   folder + "/no_batch_two", // the server makes it absolute
		relative + "/no_batch_three": relative + "/no_batch_three",
	} {
		m := &machine{
			speed: byBatch(map[int]float64{1: 10}), err: fmt.Errorf("can't serve %s: %s\nTraceback", path, reason),
		}
		c := config()
		c.Model = model
		var progress []string
		r, err := tryRun(t, c, m, func(p tune.Progress) {
			if p.Err != nil {
				progress = append(progress, tune.FirstLine(p.Err.Error(), c.Model))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "can't serve …/" + filepath.Base(path) + ": " + reason
		expectReport(t, r, "  "+want+"\n")
		if len(progress) == 0 || progress[0] != want {
			t.Errorf("got progress %q, want %q", progress, want)
		}
		if failure := r.Trials[len(r.Trials)-1].Failure; failure != m.err.Error() {
			t.Errorf("the result has only %q", failure)
		}
	}
}
