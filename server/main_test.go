package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/app"
	"github.com/torchherd/torchherd/server/internal/cli"
	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/readiness"
)

// Most tests run a whole server in this process, from flags to HTTP, and in parallel. Tests of signals, exit statuses and
// properties of a process start one. It runs this test program, with beTheCommand in its environment, so that it runs under
// the same detectors as the tests.
const beTheCommand = "TORCHHERD_TEST_BE_THE_COMMAND"

func TestMain(m *testing.M) {
	isolation.Main()
	if os.Getenv(beTheCommand) != "" {
		cli.Main("test") // never returns
	}
	// Main exits without C's exit handlers, where the race detector reports by an exit status that it has found a race. So a
	// race ends a process at once, with that status.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" halt_on_error=1"); err != nil {
		panic(err)
	}
	status := m.Run()
	// Loads that a test has abandoned still run in native code. Under the race detector, os.Exit runs C's exit handlers, which
	// destroy LibTorch's globals below such a load. A race has failed its test already.
	syscall.Exit(status)
}

// limit is how long a test waits for an event before it fails.
const limit = time.Minute

// poll calls is until it returns true, and reports whether it did within limit. It pauses between calls: polls without a
// pause take a core, which the server needs for what is waited for.
func poll(is func() bool) bool {
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for begin := time.Now(); time.Since(begin) < limit; <-pause.C {
		if is() {
			return true
		}
	}
	return false
}

// serveArguments returns the arguments of `torchherd serve`: those of all tests, then these. A trial of each version would
// double the time of the tests, so only those of trials have it.
func serveArguments(arguments []string) []string {
	return append([]string{"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug", "--no-trial"}, arguments...)
}

// A server is a running torchherd.
type server struct {
	target        // the address of images
	admin  target // the admin API
	log    *logLines
}

// An embedded server runs in this process.
type embedded struct {
	server
	app  *app.App
	stop func(context.Context) error // stops the server, once
}

// startApp starts a server in this process with the arguments of `torchherd serve`, and returns it when it is ready. The
// caller must stop it.
func startApp(t testing.TB, log zerolog.Logger, arguments []string) *app.App {
	t.Helper()
	options, err := cli.ServeOptions("test", arguments, log)
	if err != nil {
		t.Fatal(err)
	}
	return startOptions(t, options)
}

// startOptions is startApp with options.
func startOptions(t testing.TB, options app.Options) *app.App {
	t.Helper()
	a, err := app.New(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

// start starts a server in this process, as `torchherd serve` with these arguments does, and returns when it is ready. When
// the test ends, the server stops without waiting for requests in flight.
func start(t testing.TB, arguments ...string) *embedded {
	t.Helper()
	log := newLogLines()
	options, err := cli.ServeOptions("test", serveArguments(arguments), zerolog.New(log).Level(zerolog.DebugLevel))
	if err != nil {
		t.Fatal(err)
	}
	return embed(t, options, log)
}

// embed is start with options that write to this log.
func embed(t testing.TB, options app.Options, log *logLines) *embedded {
	t.Helper()
	a := startOptions(t, options)
	e := &embedded{server: server{target{t, "http://" + a.Addr()}, target{t, "http://" + a.AdminAddr()}, log}, app: a}
	var once sync.Once
	var stopped error
	e.stop = func(ctx context.Context) error {
		once.Do(func() { stopped = a.Stop(ctx) })
		return stopped
	}
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.stop(now)
		log.print(t)
	})
	return e
}

// drain starts to stop the server and returns a channel that receives the result.
func (e *embedded) drain() <-chan error {
	done := make(chan error, 1)
	go func() { done <- e.stop(context.WithoutCancel(e.t.Context())) }()
	return done
}

// reload reloads the server's models and returns when their new versions are ready.
func (e *embedded) reload() {
	e.t.Helper()
	if err := e.app.Reload(); err != nil {
		e.t.Fatal(err)
	}
}

// A process is a torchherd in a process of its own.
type process struct {
	server
	command *exec.Cmd
	report  readiness.Report
	ended   chan struct{}
	state   *os.ProcessState // valid after ended is closed
}

// startProcess starts `torchherd serve` in a process of its own and returns when it is ready. When the test ends, the process
// is killed.
func startProcess(t testing.TB, arguments ...string) *process {
	t.Helper()
	return startCommand(t, serveCommand(arguments...))
}

// serveCommand returns the command `torchherd serve` with these arguments.
func serveCommand(arguments ...string) *exec.Cmd {
	command := exec.Command(os.Args[0], append([]string{"serve"}, serveArguments(arguments)...)...)
	command.Env = append(os.Environ(), beTheCommand+"=1")
	return command
}

// startCommand is startProcess for a given command. If the command has no Stderr, its log is p.log.
func startCommand(t testing.TB, command *exec.Cmd) *process {
	t.Helper()
	p := &process{command: command, ended: make(chan struct{})}
	p.log = newLogLines()
	if command.Stderr == nil {
		command.Stderr = p.log
	}
	ready, err := readiness.Listen(command)
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ready.Started()
	go func() {
		err := command.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
		p.state = command.ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-p.ended
		p.log.print(t)
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if p.report, err = ready.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	p.target = target{t, "http://" + p.report.Address}
	p.admin = target{t, "http://" + p.report.AdminAddress}
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait waits for the process to exit and returns its state.
func (p *process) wait() *os.ProcessState {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		p.t.Fatal("the process doesn't exit")
	}
	return p.state
}

// memory returns a line of the process's status in bytes: VmRSS, its resident set, or VmHWM, the largest one.
func (p *process) memory(line string) int64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		p.t.Skip(err) // not Linux
	}
	_, rest, _ := strings.Cut(string(status), line+":")
	var kilobytes int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kilobytes); err != nil {
		p.t.Fatal(err)
	}
	return kilobytes << 10
}

// expectOrderlyEnd sends SIGTERM and checks that the process exits with status 0.
func (p *process) expectOrderlyEnd() {
	p.t.Helper()
	p.signal(terminate)
	if state := p.wait(); state.ExitCode() != 0 {
		p.t.Errorf("got %v, want exit status 0", state)
	}
}

// expectFailure checks that `torchherd serve` with these arguments exits with status 1 and prints this text.
func expectFailure(t *testing.T, text string, arguments ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], append([]string{"serve"}, serveArguments(arguments)...)...)
	command.Env = append(os.Environ(), beTheCommand+"=1")
	out, err := command.CombinedOutput()
	if command.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), text) {
		t.Errorf("%v: got %v, output %s, want status 1 and %q", arguments, err, out, text)
	}
}

// logLines are the lines of a JSON log.
type logLines struct {
	mu    sync.Mutex
	rest  []byte // an incomplete line
	lines []map[string]any
	more  *sync.Cond
}

func newLogLines() *logLines {
	l := &logLines{}
	l.more = sync.NewCond(&l.mu)
	return l
}

func (l *logLines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, data...)
	for {
		text, rest, complete := bytes.Cut(l.rest, []byte("\n"))
		if !complete {
			break
		}
		line := map[string]any{}
		if err := json.Unmarshal(text, &line); err != nil {
			line["text"] = string(text)
		}
		l.lines, l.rest = append(l.lines, line), rest
	}
	l.more.Broadcast()
	return len(data), nil
}

// print prints the log if the test has failed: the lines of these levels, or all.
func (l *logLines) print(t testing.TB, levels ...string) {
	if !t.Failed() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if level, _ := line["level"].(string); len(levels) == 0 || slices.Contains(levels, level) {
			t.Log(line)
		}
	}
}

// await waits for a line that has all these fields, and returns the first one. fields are pairs of name and value; a nil
// value matches any.
func (l *logLines) await(t testing.TB, fields ...any) map[string]any {
	t.Helper()
	return l.awaitCount(t, 1, fields...)[0]
}

// awaitCount waits until count lines have all these fields, and returns them.
func (l *logLines) awaitCount(t testing.TB, count int, fields ...any) []map[string]any {
	t.Helper()
	late := false
	timer := time.AfterFunc(limit, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.more.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		var found []map[string]any
		for _, line := range l.lines {
			if hasFields(line, fields) {
				found = append(found, line)
			}
		}
		switch {
		case len(found) >= count:
			return found
		case late:
			t.Fatalf("%d lines have the fields %v, want %d", len(found), fields, count)
		}
		l.more.Wait()
	}
}

// count returns how many lines so far have all these fields.
func (l *logLines) count(fields ...any) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for _, line := range l.lines {
		if hasFields(line, fields) {
			count++
		}
	}
	return count
}

func hasFields(line map[string]any, fields []any) bool {
	for i := 0; i < len(fields); i += 2 {
		value, there := line[fields[i].(string)]
		if !there || fields[i+1] != nil && value != fields[i+1] {
			return false
		}
	}
	return true
}

// awaitState waits until a version of a model is in a state, and returns its status.
func (s *server) awaitState(model string, version int, state lifecycle.State) lifecycle.Status {
	s.t.Helper()
	var found lifecycle.Status
	is := func() bool {
		return slices.ContainsFunc(s.statuses(model), func(status lifecycle.Status) bool {
			found = status
			return status.Version == version && status.State == state
		})
	}
	if !poll(is) {
		s.t.Fatalf("version %d of %s isn't %s: %+v", version, model, state, s.statuses(model))
	}
	return found
}

// awaitDrained waits until no version of a model is draining.
func (s *server) awaitDrained(model string) {
	s.t.Helper()
	is := func(status lifecycle.Status) bool { return status.State == lifecycle.Draining }
	if !poll(func() bool { return !slices.ContainsFunc(s.statuses(model), is) }) {
		s.t.Fatalf("a version of %s is still draining: %+v", model, s.statuses(model))
	}
}

// statuses returns the versions of a model from GET /models.
func (s *server) statuses(model string) []lifecycle.Status {
	s.t.Helper()
	var models []admin.Model
	if err := json.Unmarshal(s.admin.do(http.MethodGet, "/models", nil).body, &models); err != nil {
		s.t.Fatal(err)
	}
	for _, each := range models {
		if each.Name == model {
			return each.Versions
		}
	}
	s.t.Fatalf("no model %s in %+v", model, models)
	return nil
}

// A response is an HTTP response with its complete body.
type response struct {
	status int
	header http.Header
	body   []byte
	close  bool // Connection: close
}

// client keeps connections open, as a browser does, and sends a body with "Expect: 100-continue" only after "100 Continue".
var client = &http.Client{Timeout: limit, Transport: &http.Transport{MaxIdleConnsPerHost: 64, ExpectContinueTimeout: limit}}

// A target is an HTTP server that tests send requests to.
type target struct {
	t   testing.TB
	url string // http://127.0.0.1:PORT
}

// do sends a request; headers are pairs of name and value.
func (g target) do(method, path string, body io.Reader, headers ...string) response {
	g.t.Helper()
	r, err := g.try(method, path, body, headers...)
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// try is do for goroutines, which must not call Fatal.
func (g target) try(method, path string, body io.Reader, headers ...string) (response, error) {
	return g.tryWith(g.t.Context(), method, path, body, headers...)
}

// tryWith is try with a context, by which the client can disconnect.
func (g target) tryWith(ctx context.Context, method, path string, body io.Reader, headers ...string) (response, error) {
	request, err := http.NewRequestWithContext(ctx, method, g.url+path, body)
	if err != nil {
		return response{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	r, err := client.Do(request)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = r.Body.Close() }()
	data, err := io.ReadAll(r.Body)
	return response{r.StatusCode, r.Header, data, r.Close}, err
}

// put sends an image.
func (g target) put(image []byte, headers ...string) response {
	g.t.Helper()
	return g.putTo("/image", image, headers...)
}

func (g target) putTo(path string, image []byte, headers ...string) response {
	g.t.Helper()
	return g.do(http.MethodPut, path, bytes.NewReader(image), headers...)
}

func (g target) post(path, body string) response {
	g.t.Helper()
	return g.do(http.MethodPost, path, strings.NewReader(body))
}

// later sends an image in a goroutine and returns a channel that receives the response.
func (g target) later(image []byte, headers ...string) <-chan response {
	responses := make(chan response, 1)
	go func() {
		r, err := g.try(http.MethodPut, "/image", bytes.NewReader(image), headers...)
		if err != nil {
			g.t.Error(err)
		}
		responses <- r
	}()
	return responses
}

// dial opens a connection, for bytes that no HTTP client would send.
func (g target) dial() net.Conn {
	g.t.Helper()
	connection, err := (&net.Dialer{}).DialContext(g.t.Context(), "tcp", g.address())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(limit)); err != nil {
		g.t.Fatal(err)
	}
	return connection
}

// address returns the target's host:port.
func (g target) address() string { return strings.TrimPrefix(g.url, "http://") }

// expectError checks a response's status and that its body contains a text.
func expectError(t testing.TB, r response, status int, text string) {
	t.Helper()
	if r.status != status || !strings.Contains(string(r.body), text) {
		t.Errorf("got %d %q, want %d %q", r.status, r.body, status, text)
	}
}

// expectImage checks that a response is a JPEG.
func expectImage(t testing.TB, r response) {
	t.Helper()
	if r.status != http.StatusOK || r.header.Get("Content-Type") != "image/jpeg" || !bytes.HasPrefix(r.body, []byte{0xff, 0xd8}) {
		t.Errorf("got %d, %s, %.100q, want a JPEG", r.status, r.header.Get("Content-Type"), r.body)
	}
}

func module(name string) string { return goldens.Path("modules/" + name) }

func photograph(t testing.TB, name string) []byte { return goldens.Read(t, "pictures/"+name) }

func photographPath(name string) string { return goldens.Path("pictures/" + name) }
