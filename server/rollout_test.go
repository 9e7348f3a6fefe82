package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/cli"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

// awaitRollout waits until the report of the model net satisfies a condition, and returns it.
func (s *server) awaitRollout(is func(*rollout.Report) bool) *rollout.Report {
	s.t.Helper()
	var models []admin.Model
	satisfied := poll(func() bool {
		if err := json.Unmarshal(s.admin.do(http.MethodGet, "/models", nil).body, &models); err != nil {
			s.t.Fatal(err)
		}
		return models[0].Rollout != nil && is(models[0].Rollout)
	})
	if !satisfied {
		s.t.Fatalf("the rollout is %+v", models[0].Rollout)
	}
	return models[0].Rollout
}

// putCandidate adds version 2 to the folder of the model net and waits until it is being compared.
func (e *embedded) putCandidate(t *testing.T, folder, module string) {
	t.Helper()
	putModel(t, filepath.Join(folder, "2", "model.pt"), module)
	e.reload()
	e.awaitState("net", 2, lifecycle.Candidate)
	e.awaitRollout(func(r *rollout.Report) bool { return r.Version == "2" })
}

// The report has the PSNR of the results as clients get them, and the folder their images.
func TestShadowComparesRealResults(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"in process": nil, "isolated": {"--isolate"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := newModelFolder(t, map[string]string{"1/model.pt": "identity.pt", "model.yaml": "format: png\nsize: keep\n"})
			evidence := t.TempDir()
			s := start(t, append(flags, folder, "--shadow", "net=100%", "--evidence-dir", evidence)...)
			s.putCandidate(t, folder, "gray.pt")
			photo := photograph(t, "jpeg-420.jpg")
			const requests = 3
			var first []byte
			for i := range requests {
				first = s.expectPNG(t, s.put(photo), 1)
				s.awaitRollout(func(r *rollout.Report) bool { return r.Pairs == uint64(i+1) })
			}
			r := s.awaitRollout(func(*rollout.Report) bool { return true })
			second := s.expectPNG(t, s.putTo("/image/net/versions/2", photo), 2)
			if want := psnrOf(t, first, second); math.Abs(*r.PSNR-want) > 1e-9 || math.Abs(*r.WorstPSNR-want) > 1e-9 {
				t.Errorf("PSNR %v, worst %v, want %v", *r.PSNR, *r.WorstPSNR, want)
			}
			if r.Failures != 0 || r.Candidate.Requests != requests || r.Candidate.P50 == 0 || r.Serving.P50 == 0 {
				t.Errorf("%+v", r)
			}
			if r.Page != filepath.Join(evidence, "net", "2", "index.html") {
				t.Errorf("page %q", r.Page)
			}
			for name, want := range map[string][]byte{"pair-1-sent.jpeg": photo, "pair-1-serving.png": first, "pair-1-candidate.png": second} {
				got, err := os.ReadFile(filepath.Join(evidence, "net", "2", name))
				if err != nil {
					t.Fatal(err)
				}
				if name != "pair-1-sent.jpeg" {
					if psnr := psnrOf(t, got, want); !math.IsInf(psnr, 1) {
						t.Errorf("%s differs from the response, PSNR %v", name, psnr)
					}
				} else if !bytes.Equal(got, want) {
					t.Errorf("%s isn't what was sent", name)
				}
			}
			metrics := string(s.admin.do("GET", "/metrics", nil).body)
			for _, want := range []string{
				fmt.Sprintf(`torchherd_candidate_psnr_decibels{model="net",of="all",version="2"} %v`, *r.PSNR),
				`torchherd_candidate_pairs{model="net",outcome="failed",version="2"} 0`,
			} {
				if !strings.Contains(metrics, want) {
					t.Errorf("no %s in\n%s", want, metrics)
				}
			}
		})
	}
}

func (g target) expectPNG(t *testing.T, r response, version int) []byte {
	t.Helper()
	if r.status != http.StatusOK || r.header.Get("X-Model-Version") != strconv.Itoa(version) {
		t.Fatalf("got %d, version %s, %.100s; want version %d", r.status, r.header.Get("X-Model-Version"), r.body, version)
	}
	return r.body
}

// psnrOf compares two PNG files in RGB; +Inf: they are equal.
func psnrOf(t *testing.T, a, b []byte) float64 {
	t.Helper()
	first, second := decodePNG(t, a), decodePNG(t, b)
	if first.Bounds() != second.Bounds() {
		t.Fatalf("sizes %v and %v", first.Bounds(), second.Bounds())
	}
	var sum, count float64
	for y := range first.Bounds().Dy() {
		for x := range first.Bounds().Dx() {
			p, q := color.NRGBAModel.Convert(first.At(x, y)).(color.NRGBA), color.NRGBAModel.Convert(second.At(x, y)).(color.NRGBA)
			for _, pair := range [][2]uint8{{p.R, q.R}, {p.G, q.G}, {p.B, q.B}} {
				d := float64(pair[0]) - float64(pair[1])
				sum, count = sum+d*d, count+1
			}
		}
	}
	return 10 * math.Log10(255*255*count/sum)
}

// Both versions get all parts of a request.
func TestShadowOfAModelWithSeveralInputs(t *testing.T) {
	t.Parallel()
	folder := taggedModel(t)
	s := start(t, folder, "--shadow", "100%")
	goldens.ScriptOf(t, folder+"/2/model.pt", "x: Tensor, mask: Tensor, strength: Tensor, gain: float", `
    blue = torch.add(torch.zeros_like(mask), torch.reshape(strength, [-1, 1, 1, 1]))
    return torch.cat([torch.slice(x, 1, 0, 1), torch.mul(mask, gain), blue], 1)
`)
	s.reload()
	s.awaitRollout(func(r *rollout.Report) bool { return r.Version == "2" })
	for i := range 5 {
		body, kind := form(t, part{name: "image", content: solid(t, grey(200))}, part{name: "mask", content: solid(t, grey(50))},
			number("strength", "0.5"))
		r := s.do(http.MethodPost, "/image?gain=2", body, "Content-Type", kind)
		if got, err := colourOf(r.body); err != nil || !near(got, color.NRGBA{200, 100, 127, 255}) {
			t.Fatalf("got %d, %v, %v", r.status, got, err)
		}
		s.awaitRollout(func(r *rollout.Report) bool { return r.Pairs == uint64(i+1) })
	}
	if r := s.awaitRollout(func(*rollout.Report) bool { return true }); *r.WorstPSNR != 100 || r.Failures != 0 {
		t.Errorf("equal models differ: %+v, worst %v dB", r, *r.WorstPSNR)
	}
}

// A candidate that fails for its clients goes, and the reason says by which rule. From then on nobody meets it.
func TestCanaryGoesBack(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "identity.pt", "model.yaml": "size: 16x16\n"})
	s := start(t, folder, "--canary", "50%,100%", "--canary-step", "1h", "--canary-rule", "errors<5%", "--canary-key", "X-Client")
	s.putCandidate(t, folder, "fails_on_black.pt")
	black := solid(t, color.NRGBA{A: 255})
	first := map[int]response{}
	for client := range 40 {
		first[client] = s.put(black, "X-Client", strconv.Itoa(client))
	}
	failed := 0
	for _, r := range first {
		switch {
		case r.status == http.StatusOK && r.header.Get("X-Model-Version") == "1":
		case r.status == http.StatusInternalServerError && r.header.Get("X-Model-Version") == "2":
			failed++
		default:
			t.Fatalf("got %d, version %s", r.status, r.header.Get("X-Model-Version"))
		}
	}
	if failed == 0 || failed == len(first) {
		t.Errorf("the candidate answered %d of %d clients", failed, len(first))
	}
	status := s.awaitState("net", 2, lifecycle.Failed)
	if !strings.HasPrefix(status.Reason, "the rule errors<5% is broken: ") {
		t.Errorf("reason %q", status.Reason)
	}
	for client := range 40 {
		if r := s.put(black, "X-Client", strconv.Itoa(client)); r.status != http.StatusOK || r.header.Get("X-Model-Version") != "1" {
			t.Fatalf("client %d got %d, version %s", client, r.status, r.header.Get("X-Model-Version"))
		}
	}
	s.awaitRollout(func(r *rollout.Report) bool { return r.Outcome == status.Reason })
}

// A candidate takes over under load, and no request is lost.
func TestCanaryUnderLoad(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	s := start(t, folder, "--max-queue-size", "64", "--canary", "100%", "--canary-step", "0s", "--canary-rule", "errors<50%")
	photo := photograph(t, "jpeg-420.jpg")
	want := map[int][]byte{
		1: expectVersion(t, s.put(photo), 1),
		2: expectVersion(t, start(t, module("identity.pt")).put(photo), 1),
	}
	putModel(t, filepath.Join(folder, "2", "model.pt"), "identity.pt")
	load := s.load(4, photo, func(version int) []byte { return want[version] })
	s.reload()
	s.awaitState("net", 2, lifecycle.Ready)
	s.awaitState("net", 1, lifecycle.Unloaded)
	if seen := load.end(); seen[1] == 0 || seen[2] == 0 {
		t.Errorf("responses by version: %v", seen)
	}
	if r := s.awaitRollout(func(r *rollout.Report) bool { return r.Outcome != "" }); r.Candidate.Requests < 20 {
		t.Errorf("promoted without evidence: %+v", r)
	}
}

func TestPromoteAndRollbackCommands(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	s := start(t, folder, "--shadow", "5%")
	photo := photograph(t, "jpeg-420.jpg")
	run := func(arguments ...string) (int, string) {
		var out bytes.Buffer
		status := cli.Run("test", append(append([]string{"models"}, arguments...), "--admin-listen", s.admin.address()), &out, &out)
		return status, out.String()
	}
	if status, out := run("promote", "net"); status != 1 || !strings.Contains(out, "promote net: no version waits to be promoted") {
		t.Errorf("promote without a candidate: status %d, %s", status, out)
	}
	if status, out := run("rollback", "net"); status != 1 || !strings.Contains(out, "roll net back: no older version can be served") {
		t.Errorf("rollback without an older version: status %d, %s", status, out)
	}
	expectVersion(t, s.put(photo), 1)
	s.putCandidate(t, folder, "identity.pt")
	expectVersion(t, s.put(photo), 1)
	status, out := run("list")
	if status != 0 || !strings.Contains(out, "candidate") || !strings.Contains(out, "pairs compared with version 1") {
		t.Errorf("list: status %d\n%s", status, out)
	}
	if status, out := run("promote", "net"); status != 0 || out != "" {
		t.Fatalf("promote: status %d, %s", status, out)
	}
	expectVersion(t, s.put(photo), 2)
	if status, out := run("rollback", "net"); status != 0 || out != "" {
		t.Fatalf("rollback: status %d, %s", status, out)
	}
	expectVersion(t, s.put(photo), 1)
	if reason := s.awaitState("net", 2, lifecycle.Failed).Reason; reason != "rolled back by an operator" {
		t.Errorf("reason %q", reason)
	}
	s.reload() // which tries failed versions again
	s.awaitState("net", 2, lifecycle.Candidate)
	if status, out := run("rollback", "net"); status != 0 || out != "" {
		t.Fatalf("rollback of a candidate: status %d, %s", status, out)
	}
	expectVersion(t, s.put(photo), 1)
}

func TestRolloutOfAnUnknownModel(t *testing.T) {
	t.Parallel()
	expectFailure(t, `can't plan a rollout: model "other" not found`, "--shadow", "other=5%", module("negate.pt"))
}
