package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cli"
)

// The tests start the whole command as a process of its own and speak HTTP to it. The process is this test program
// again, which so runs under the same detectors as the tests.
const beTheCommand = "TORCHHERD_TEST_BE_THE_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(beTheCommand) != "" {
		cli.Main("test") // never returns
	}
	os.Exit(m.Run())
}

// A command is a running torchherd.
type command struct {
	t       testing.TB
	process *exec.Cmd
	url     string // http://127.0.0.1:PORT
	ended   chan struct{}
	state   *os.ProcessState // after ended

	mu    sync.Mutex
	lines []map[string]any // of the log so far
	more  *sync.Cond
}

// limit ends a test that waits for something that never comes.
const limit = time.Minute

// start runs `torchherd serve` on a free port and returns when it is ready. The test's end kills it.
func start(t testing.TB, arguments ...string) *command {
	t.Helper()
	process := exec.Command(os.Args[0], serve(arguments)...)
	process.Env = append(os.Environ(), beTheCommand+"=1")
	return startProcess(t, process)
}

// serve is the command line that the tests serve by.
func serve(arguments []string) []string {
	return append([]string{"serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"}, arguments...)
}

// startProcess is start for a process of the caller's making.
func startProcess(t testing.TB, process *exec.Cmd) *command {
	t.Helper()
	c := &command{t: t, process: process, ended: make(chan struct{})}
	c.more = sync.NewCond(&c.mu)
	stderr, err := c.process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	go c.read(stderr)
	t.Cleanup(func() {
		_ = c.process.Process.Kill()
		<-c.ended
		if t.Failed() {
			for _, line := range c.lines {
				t.Log(line)
			}
		}
	})
	c.await("ready")
	c.url = "http://" + c.await("listening; loading the model")["address"].(string)
	return c
}

// read collects the log until the process ends.
func (c *command) read(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := map[string]any{}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			line["message"] = lines.Text()
		}
		c.mu.Lock()
		c.lines = append(c.lines, line)
		c.mu.Unlock()
		c.more.Broadcast()
	}
	err := c.process.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Error(err)
	}
	c.mu.Lock()
	c.state = c.process.ProcessState
	c.mu.Unlock()
	close(c.ended)
	c.more.Broadcast()
}

// await returns the first line of the log with this message and these fields (pairs of name and value), waiting for
// it if it isn't there yet.
func (c *command) await(message string, fields ...any) map[string]any {
	c.t.Helper()
	timer := time.AfterFunc(limit, func() { _ = c.process.Process.Kill() })
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for next := 0; ; {
		for ; next < len(c.lines); next++ {
			if matches(c.lines[next], message, fields) {
				return c.lines[next]
			}
		}
		if c.state != nil {
			c.t.Fatalf("the command ended (%v) without saying %q %v", c.state, message, fields)
		}
		c.more.Wait()
	}
}

// awaitCount waits until so many lines of the log have this message.
func (c *command) awaitCount(message string, count int) {
	c.t.Helper()
	timer := time.AfterFunc(limit, func() { _ = c.process.Process.Kill() })
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.said(message)) < count {
		if c.state != nil {
			c.t.Fatalf("the command ended before it said %q %d times", message, count)
		}
		c.more.Wait()
	}
}

// count returns how many lines of the log so far have this message.
func (c *command) count(message string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.said(message))
}

// said returns the lines of the log so far that have this message; the caller holds the lock.
func (c *command) said(message string) []map[string]any {
	var said []map[string]any
	for _, line := range c.lines {
		if matches(line, message, nil) {
			said = append(said, line)
		}
	}
	return said
}

func matches(line map[string]any, message string, fields []any) bool {
	if line["message"] != message {
		return false
	}
	for i := 0; i < len(fields); i += 2 {
		if line[fields[i].(string)] != fields[i+1] {
			return false
		}
	}
	return true
}

func (c *command) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.process.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// wait returns the state in which the command ended.
func (c *command) wait() *os.ProcessState {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(limit):
		c.t.Fatal("the command doesn't end")
	}
	return c.state
}

// An answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	close  bool // the server asked to close the connection
}

// client keeps connections, as a browser does, and waits for "100 Continue" where it expects it.
var client = &http.Client{Timeout: limit, Transport: &http.Transport{MaxIdleConnsPerHost: 64, ExpectContinueTimeout: limit}}

// do sends a request; headers are pairs of name and value.
func (c *command) do(method, path string, body io.Reader, headers ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// try is do for goroutines of a test, which must not call Fatal.
func (c *command) try(method, path string, body io.Reader, headers ...string) (answer, error) {
	return c.tryWith(c.t.Context(), method, path, body, headers...)
}

// tryWith is try for a client that may leave.
func (c *command) tryWith(ctx context.Context, method, path string, body io.Reader, headers ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, data, response.Close}, err
}

// put sends a picture.
func (c *command) put(picture []byte, headers ...string) answer {
	c.t.Helper()
	return c.do(http.MethodPut, "/image", bytes.NewReader(picture), headers...)
}

// later sends a picture in a goroutine of its own.
func (c *command) later(picture []byte, headers ...string) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		a, err := c.try(http.MethodPut, "/image", bytes.NewReader(picture), headers...)
		if err != nil {
			c.t.Error(err)
		}
		answers <- a
	}()
	return answers
}

// expectError compares an answer with a status and a part of its text.
func expectError(t testing.TB, a answer, status int, text string) {
	t.Helper()
	if a.status != status || !strings.Contains(string(a.body), text) {
		t.Errorf("answered %d %q instead of %d %q", a.status, a.body, status, text)
	}
}

// expectImage makes sure that an answer is a JPEG.
func expectImage(t testing.TB, a answer) {
	t.Helper()
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "image/jpeg" || !bytes.HasPrefix(a.body, []byte{0xff, 0xd8}) {
		t.Errorf("answered %d, %s, %.100q instead of a JPEG", a.status, a.header.Get("Content-Type"), a.body)
	}
}

// dial opens a connection for what no HTTP client would send.
func (c *command) dial() net.Conn {
	c.t.Helper()
	connection, err := (&net.Dialer{}).DialContext(c.t.Context(), "tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(limit)); err != nil {
		c.t.Fatal(err)
	}
	return connection
}

func module(name string) string { return goldens.Path("modules/" + name) }

func photograph(t testing.TB, name string) []byte { return goldens.Read(t, "pictures/"+name) }

func photographPath(name string) string { return goldens.Path("pictures/" + name) }
