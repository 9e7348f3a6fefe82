package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// echoServer starts a server that responds with the request body, and returns its URL.
func echoServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(server.Close)
	return server.URL
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		_, _ = w.Write(body)
	}
}

// expectStatus compares an exit status with a result that has good responses. It is 0, or fellBehindStatus if the load
// generator fell behind, which it can do here because it shares its process with the server.
func expectStatus(t *testing.T, status int, r *loadgen.Result) {
	t.Helper()
	want := 0
	if r.Saturation.FellBehind {
		want = fellBehindStatus
	}
	if status != want {
		t.Errorf("got status %d, want %d: %+v", status, want, r.Saturation)
	}
}

func readResult(t *testing.T, text []byte) *loadgen.Result {
	t.Helper()
	var r loadgen.Result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return &r
}

func TestBenchWritesReportJSONAndPlot(t *testing.T) {
	folder := t.TempDir()
	file, plot := filepath.Join(folder, "result.json"), filepath.Join(folder, "plot.svg")
	status, out, stderr := run("bench", echoServer(t), "--quiet", "--clients=2", "--requests=20", "--warm-up=0s",
		"--picture", goldens.Path("pictures/jpeg-small.jpg"), "--picture", goldens.Path("pictures/png-rgb.png"),
		"--json", file, "--plot", plot)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err, stderr)
	}
	r := readResult(t, text)
	expectStatus(t, status, r)
	if r.Requests != 20 || r.Good != 20 || !strings.Contains(out, "requests  20, 20 good, 0 failed") {
		t.Errorf("got %s\n%s, want 20 requests, all good", out, text)
	}
	if svg, err := os.ReadFile(plot); err != nil || !strings.HasPrefix(string(svg), "<svg") {
		t.Errorf("the plot is %.100q, %v, want an SVG", svg, err)
	}
}

func TestBenchWritesJSONInsteadOfTheReport(t *testing.T) {
	status, out, _ := run("bench", echoServer(t), "--json=-", "--quiet", "--rate=200", "--requests=10",
		"--warm-up=0s")
	r := readResult(t, []byte(out))
	expectStatus(t, status, r)
	if r.Mode != loadgen.Open || r.Requests != 10 {
		t.Errorf("got %+v, want 10 requests in an open loop", r)
	}
}

func TestBenchWithoutGoodResponsesFails(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	status, out, err := run("bench", server.URL, "--quiet", "--clients=1", "--requests=2", "--warm-up=0s")
	if status != 1 || !strings.Contains(out, "connection refused") || !strings.Contains(err, "none of 2 requests") {
		t.Errorf("got status %d, want 1 and \"none of 2 requests\"\n%s%s", status, out, err)
	}
}

// The load generator falls behind as well, because the server never responds.
func TestBenchWithoutGoodResponsesFailsAlsoWhenItFellBehind(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client disconnects
		<-r.Context().Done()
	}))
	defer server.Close()
	status, out, err := run("bench", server.URL, "--quiet", "--rate=1000", "--max-in-flight=1", "--warm-up=0s",
		"--duration=500ms", "--request-timeout=250ms")
	if status != 1 || !strings.Contains(out, "FELL BEHIND") || !strings.Contains(err, "none of ") {
		t.Errorf("got status %d, want 1, \"FELL BEHIND\" and \"none of\"\n%s%s", status, out, err)
	}
}

// Some of 2500 requests start while the only one that may be in flight is.
func TestBenchReportsThatItFellBehind(t *testing.T) {
	status, out, err := run("bench", echoServer(t), "--quiet", "--rate=5000", "--max-in-flight=1", "--warm-up=0s",
		"--duration=500ms")
	if status != fellBehindStatus || !strings.Contains(out, "FELL BEHIND") || !strings.Contains(err, "weren't sent") {
		t.Errorf("got status %d, want %d, \"FELL BEHIND\" and \"weren't sent\"\n%s%s", status, fellBehindStatus, out, err)
	}
}

func TestBenchUsage(t *testing.T) {
	for _, test := range []struct {
		arguments []string
		want      string
	}{
		{nil, "write it like http://localhost:8000/image"},
		{[]string{"localhost:8000"}, "write it like http://localhost:8000/image"},
		{[]string{"ftp://localhost/"}, "write it like http://localhost:8000/image"},
		{[]string{"http://localhost/", "--method=GET"}, "PUT"},
		{[]string{"http://localhost/", "--picture=nothing.jpg"}, "nothing.jpg"},
		{[]string{"http://localhost/", "--clients=0"}, "clients 0"},
		{[]string{"http://localhost/", "--clients=4097"}, "1 to 4096"},
		{[]string{"http://localhost/", "--rate=1e9"}, "at most 100000"},
		{[]string{"http://localhost/", "--rate=-1"}, "rate -1"},
		{[]string{"http://localhost/", "--rate=NaN"}, "rate NaN"},
		{[]string{"http://localhost/", "--duration=2h"}, "at most 1h"},
		{[]string{"http://localhost/", "--plot=plot.pdf"}, ".svg or .png"},
		{[]string{"http://localhost/", "--requets=1"}, `did you mean "--requests"?`},
	} {
		status, out, err := run(append([]string{"bench"}, test.arguments...)...)
		if status != 2 || out != "" || !strings.Contains(err, test.want) ||
			!strings.Contains(err, "torchherd bench --help") {
			t.Errorf("%v: got status %d, stdout %q, stderr %q, want status 2 and %q", test.arguments, status, out, err, test.want)
		}
	}
}

func TestBenchHelp(t *testing.T) {
	status, out, _ := run("bench", "--help")
	for _, part := range []string{"--rate", "--clients", "The exit status is", "fell behind", "Poisson"} {
		if status != 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), part) {
			t.Errorf("got status %d, want 0 and %q in %s", status, part, out)
		}
	}
}

func TestProgressWithoutATerminal(t *testing.T) {
	var b strings.Builder
	line := newProgressLine(&b)
	for second := range 12 {
		line.load(loadgen.Progress{
			Elapsed: time.Duration(second+1) * time.Second, WarmingUp: second < 5,
			Requests: second, Goodput: 12.34, P50: 5 * time.Millisecond,
		})
	}
	line.erase()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "5 s (warm-up)") ||
		!strings.Contains(lines[1], "9 requests, 0 failed") ||
		!strings.Contains(lines[1], "12.3 good/s, p50 5.0 ms") {
		t.Errorf("got %q, want a line of the warm-up and one of the window", lines)
	}
}
