package rollout_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

func TestShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serving, candidate := &behaviour{pixel: 100, took: time.Millisecond}, &behaviour{pixel: 110, took: 2 * time.Millisecond}
		s := begin(t, rollout.Plan{Shadow: 1}, serving, candidate)
		if n := s.requests(30); n != 0 {
			t.Errorf("the candidate answered %d requests", n)
		}
		if serving.count() != 30 || candidate.count() != 30 {
			t.Errorf("version 1 processed %d requests, and version 2 %d", serving.count(), candidate.count())
		}
		s.pass(time.Hour)
		r := s.controller.Report()
		want := 10 * math.Log10(255*255/100.)
		if r.Version != "2" || r.Against != "1" || r.Pairs != 30 || math.Abs(*r.PSNR-want) > 1e-9 || math.Abs(*r.WorstPSNR-want) > 1e-9 {
			t.Errorf("%+v, PSNR %v", r, *r.PSNR)
		}
		if math.Abs(r.Candidate.P99/r.Serving.P99-2) > 0.01 {
			t.Errorf("latencies %+v and %+v", r.Candidate, r.Serving)
		}
		if state := s.states()[2].State; state != lifecycle.Candidate {
			t.Errorf("version 2 is %s", state)
		}
	})
}

func TestShadowCountsFailures(t *testing.T) {
	for name, candidate := range map[string]*behaviour{
		"errors": {fails: func(request int) bool { return request%2 == 0 }},
		"sizes":  {size: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := begin(t, rollout.Plan{Shadow: 1}, &behaviour{}, candidate)
				s.requests(10)
				want := uint64(5)
				if name == "sizes" {
					want = 10
				}
				if r := s.controller.Report(); r.Failures != want || r.Pairs != 10-want {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// While images wait for the serving version, nothing is compared.
func TestComparisonsWaitForAQuietMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting := 1
		serving, candidate := &behaviour{}, &behaviour{}
		serving.waiting = func() int { serving.mu.Lock(); defer serving.mu.Unlock(); return waiting }
		s := begin(t, rollout.Plan{Shadow: 1}, serving, candidate)
		s.requests(10)
		if n := candidate.count(); n != 0 {
			t.Errorf("%d comparisons while images were waiting", n)
		}
		if r := s.controller.Report(); r.Skipped != 6 { // four are kept
			t.Errorf("%d skipped", r.Skipped)
		}
		serving.mu.Lock()
		waiting = 0
		serving.mu.Unlock()
		s.request(0)
		if r := s.controller.Report(); r.Pairs != 4 && r.Pairs != 5 {
			t.Errorf("%d pairs", r.Pairs)
		}
	})
}

func TestCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(t, parse(t, "10%,50%,100%", "errors<1% p99<1.5x"), &behaviour{took: time.Millisecond}, &behaviour{took: time.Millisecond})
		const clients = 2000
		for step, want := range []float64{0.1, 0.5, 1} {
			if r := s.controller.Report(); r.Step != step+1 || r.Steps != 3 || r.Share != want {
				t.Fatalf("%+v", r)
			}
			before := map[int]bool{}
			for client := range clients {
				before[client] = s.request(client) == "2"
			}
			n := 0
			for client := range clients {
				byCandidate := s.request(client) == "2"
				if byCandidate != before[client] {
					t.Fatalf("client %d came to another version in the same step", client)
				}
				if byCandidate {
					n++
				}
			}
			// Five standard deviations of the binomial distribution.
			if margin := 5 * math.Sqrt(clients*want*(1-want)); math.Abs(float64(n)-clients*want) > margin {
				t.Errorf("the candidate answered %d of %d clients, want %v", n, clients, want)
			}
			s.pass(5 * time.Minute)
		}
		if got := s.states(); got[2].State != lifecycle.Ready || got[1].State != lifecycle.Unloaded {
			t.Errorf("%+v", got)
		}
		if r := s.controller.Report(); !strings.HasPrefix(r.Outcome, "promoted") {
			t.Errorf("%+v", r)
		}
	})
}

// Whoever came to the candidate stays with it as the share grows.
func TestCanaryKeepsItsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(t, parse(t, "20%,60%", "errors<1%"), &behaviour{}, &behaviour{})
		first := map[int]bool{}
		for client := range 300 {
			first[client] = s.request(client) == "2"
		}
		s.pass(5 * time.Minute)
		for client := range 300 {
			if first[client] && s.request(client) != "2" {
				t.Fatalf("client %d left the candidate", client)
			}
		}
	})
}

func TestStepWaitsForEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(t, parse(t, "50%,100%", "errors<1%"), &behaviour{}, &behaviour{})
		s.pass(time.Hour)
		r := s.controller.Report()
		if r.Step != 1 || len(r.Waits) != 1 || r.Waits[0] != "errors<1%: 0 of 20 requests" {
			t.Errorf("%+v", r)
		}
		s.requests(100)
		s.pass(time.Second)
		if r := s.controller.Report(); r.Step != 2 {
			t.Errorf("%+v", r)
		}
	})
}

func TestBrokenRulesRollBack(t *testing.T) {
	for _, test := range []struct {
		rules     string
		shadow    float64
		candidate *behaviour
		want      string
	}{
		{"errors<0.1%", 0, &behaviour{fails: func(int) bool { return true }}, "the rule errors<0.1% is broken: "},
		{"errors<10%", 0, &behaviour{fails: func(request int) bool { return request%4 == 0 }}, "the rule errors<10% is broken: "},
		{"psnr>30", 1, &behaviour{pixel: 50}, "the rule psnr>30 is broken: "},
		{"worst>30", 1, &behaviour{pixel: 50}, "the rule worst>30 is broken: the worst of "},
		{"p99<1.2x", 0, &behaviour{took: 20 * time.Millisecond}, "the rule p99<1.2x is broken: p99 is 20.0 ms, 2.00 times 10.0 ms; "},
		{"p50<1.2x", 0, &behaviour{took: 13 * time.Millisecond}, "the rule p50<1.2x is broken: p50 is 13.0 ms, 1.30 times 10.0 ms; "},
		{"p99<15ms", 0, &behaviour{took: 20 * time.Millisecond}, "the rule p99<15ms is broken: p99 is 20.0 ms; "},
	} {
		t.Run(test.rules, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan := parse(t, "50%,100%", test.rules)
				plan.Shadow = test.shadow
				s := begin(t, plan, &behaviour{took: 10 * time.Millisecond}, test.candidate)
				s.requests(400)
				s.pass(time.Second)
				status := s.states()[2]
				if status.State != lifecycle.Failed || !strings.HasPrefix(status.Reason, test.want) {
					t.Errorf("%+v, want %q", status, test.want)
				}
				if n := s.requests(50); n != 0 {
					t.Errorf("the candidate answered %d requests after it was rolled back", n)
				}
				if r := s.controller.Report(); r.Outcome != status.Reason {
					t.Errorf("%+v", r)
				}
				s.must(s.model.Refresh())
				s.pass(time.Hour)
				if state := s.states()[2].State; state != lifecycle.Failed {
					t.Errorf("version 2 is %s after a refresh", state)
				}
			})
		})
	}
}

// Rules that hold narrowly don't end a candidate, whatever the order of the requests.
func TestRulesHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := parse(t, "50%", "errors<10% psnr>30 worst>30 p99<1.2x p50<1.2x")
		plan.Shadow = 1
		s := begin(t, plan,
			&behaviour{took: 10 * time.Millisecond},
			&behaviour{took: 11 * time.Millisecond, pixel: 5, fails: func(request int) bool { return request%20 == 0 }})
		s.requests(2000)
		s.pass(5 * time.Minute)
		if got := s.states(); got[2].State != lifecycle.Ready {
			t.Errorf("%+v", got)
		}
	})
}

// An operator can end a rollout at any time, and a newer version begins a new one.
func TestOperatorsAndNewerVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(t, parse(t, "100%", "errors<1%"), &behaviour{}, &behaviour{})
		s.requests(30)
		s.source.add(3)
		s.must(s.model.Refresh())
		if version := s.request(0); version != "1" {
			t.Errorf("version %s answers before the new rollout begins", version)
		}
		s.pass(time.Second)
		if r := s.controller.Report(); r.Version != "3" || r.Candidate.Requests != 0 {
			t.Errorf("%+v", r)
		}
		s.must(s.model.Promote(lifecycle.AnyLoad))
		s.pass(time.Second)
		if r := s.controller.Report(); r.Outcome == "" {
			t.Errorf("%+v", r)
		}
		if version := s.request(0); version != "3" {
			t.Errorf("version %s", version)
		}
	})
}

func TestEvidencePage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		candidate := &behaviour{fails: func(request int) bool { return request == 3 }}
		s := begin(t, rollout.Plan{Shadow: 1, EvidenceDir: folder}, &behaviour{}, candidate)
		for i := range 30 {
			candidate.mu.Lock()
			candidate.pixel = byte(i)
			candidate.mu.Unlock()
			s.request(i)
		}
		page := filepath.Join(folder, "net", "2", "index.html")
		if r := s.controller.Report(); r.Page != page {
			t.Errorf("page %q, want %q", r.Page, page)
		}
		text := readFile(t, page)
		previous := -1
		for _, want := range append([]string{"no PSNR: the model failed"}, psnrTexts(29, 21)...) { // the failure, and the nine that differ most
			at := strings.Index(text, want)
			if at <= previous {
				t.Fatalf("%q isn't in its place in\n%s", want, text)
			}
			previous = at
		}
		if strings.Count(text, "<section>") != 10 {
			t.Errorf("%d pairs", strings.Count(text, "<section>"))
		}
		files, err := os.ReadDir(filepath.Dir(page))
		s.must(err)
		if want := 9*4 + 2 + 1; len(files) != want { // of the failure there is what was sent, and one result
			t.Errorf("%d files, want %d", len(files), want)
		}
		for _, file := range files {
			if file.Name() != "index.html" && !strings.Contains(text, file.Name()) {
				t.Errorf("%s isn't on the page", file.Name())
			}
			info, err := file.Info()
			s.must(err)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", file.Name(), info.Mode())
			}
		}
	})
}

// psnrTexts are the headings of pairs that differ by from to down to levels in their only pixel.
func psnrTexts(from, downTo int) []string {
	var texts []string
	for level := from; level >= downTo; level-- {
		texts = append(texts, fmt.Sprintf("%.1f dB", 20*math.Log10(255/float64(level))))
	}
	return texts
}

func TestParse(t *testing.T) {
	for _, text := range []string{"", "5", "0%", "-1%", "101%", "x%", "NaN%"} {
		if share, err := rollout.ParseShare(text); err == nil {
			t.Errorf("share %q is %v", text, share)
		}
	}
	for _, text := range []string{"", "10%,5%", "5%,5%", "1%,,2%"} {
		if steps, err := rollout.ParseSteps(text); err == nil {
			t.Errorf("steps %q are %v", text, steps)
		}
	}
	for _, text := range []string{"errors", "errors>1%", "errors<1", "psnr<30", "psnr>x", "p99<1.2", "p99>1.2x", "p98<2x", "p99<0x", "psnr>30 psnr>40", "psnr>NaN"} {
		if rules, err := rollout.ParseRules(text); err == nil {
			t.Errorf("rules %q are %v", text, rules)
		}
	}
	if rules, err := rollout.ParseRules(" errors<0.1%  psnr>30dB p99<1.2x p99<250ms "); err != nil || len(rules) != 4 {
		t.Errorf("rules %v, error %v", rules, err)
	}
}
