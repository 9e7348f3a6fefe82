package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/torchherd/torchherd/server/internal/cli"
)

// 1,000 clients that say nothing and 500 that send a byte now and then leave the others their images.
func TestIdleAndTricklingConnections(t *testing.T) {
	t.Parallel()
	const idle, trickling = 1000, 500
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < 4*(idle+trickling) {
		t.Skipf("the limit of file descriptors is %d (%v), and the test needs %d", files.Cur, err, 4*(idle+trickling))
	}
	s := start(t, "--max-wait", "0s", module("negate.pt"))
	for range idle {
		s.dial()
	}
	connections := make([]net.Conn, trickling)
	for i := range connections {
		connections[i] = s.dial()
		if _, err := io.WriteString(connections[i], "PUT /image HTTP/1.1\r\nHost: herd\r\nContent-Length: 1000000\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = connections[i%trickling].Write([]byte{0xff})
			}
		}
	}()
	for range 50 {
		expectImage(t, s.put(photograph(t, "jpeg-small.jpg")))
	}
	close(stop)
	<-stopped
}

// shell starts `torchherd serve` by a shell script, which has the command's words as "$@".
func shell(t *testing.T, script string, arguments ...string) *process {
	t.Helper()
	command := exec.Command("sh", append([]string{"-c", script, "sh", os.Args[0], "serve"}, serveArguments(arguments)...)...)
	command.Env = append(os.Environ(), beTheCommand+"=1")
	return startCommand(t, command)
}

// can skips the test if a shell script fails, which tries what the test needs.
func can(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
		t.Skipf("this user can't %s: %v, %s", script, err, out)
	}
}

// With 16 file descriptors there is room for a few connections. Idle ones give their places to others.
func TestFewFileDescriptors(t *testing.T) {
	t.Parallel()
	p := shell(t, `ulimit -n 16; exec "$@"`, "--max-queue-size", "8", module("negate.pt"))
	for range 20 {
		p.dial()
	}
	photo := photograph(t, "jpeg-small.jpg")
	responses := make(chan response)
	for range 8 {
		go func() {
			r, err := p.try(http.MethodPut, "/image", bytes.NewReader(photo))
			if err != nil {
				t.Error(err)
			}
			responses <- r
		}()
	}
	for range 8 {
		expectImage(t, <-responses)
	}
	expectImage(t, p.put(photo))
	var out bytes.Buffer
	if status := cli.Run("test", []string{"health", "--timeout", "20s", "--listen", p.address()}, &out, &out); status != 0 {
		t.Errorf("health: got status %d, %s", status, out.String())
	}
	if r := p.admin.do(http.MethodGet, "/models", nil); r.status != 200 {
		t.Errorf("admin API: status = %d, want 200", r.status)
	}
	if p.log.count("text", nil) > 0 {
		t.Error("the log has lines that aren't JSON")
	}
}

// A full disk takes the log's lines, not the server.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	can(t, "test -e /dev/full")
	p := shell(t, `exec "$@" 2>/dev/full`, module("negate.pt"))
	for range 20 {
		expectImage(t, p.put(photograph(t, "jpeg-small.jpg")))
	}
	p.expectOrderlyEnd()
}

func TestAReadOnlyRoot(t *testing.T) {
	t.Parallel()
	const readOnly = "mount --make-rprivate / && mount -o remount,bind,ro /"
	can(t, "unshare --mount sh -c '"+readOnly+" && ! touch /torchherd-test 2>/dev/null'")
	p := shell(t, `exec unshare --mount sh -c '`+readOnly+` && exec "$@"' sh "$@"`, module("negate.pt"))
	expectImage(t, p.put(photograph(t, "jpeg-small.jpg")))
	expectJSON(t, p.admin.post("/v2/repository/models/negate/load", ""), 200, `{}`)
	p.expectOrderlyEnd()
}

// MKL ends a process whose working directory doesn't exist.
func TestADeletedWorkingDirectory(t *testing.T) {
	t.Parallel()
	model, err := filepath.Abs(module("negate.pt"))
	if err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	p := shell(t, `mkdir `+gone+` && cd `+gone+` && rmdir `+gone+` && exec "$@"`, model)
	expectImage(t, p.put(photograph(t, "jpeg-small.jpg")))
}

// A server that is stopped and continued serves on.
func TestStopAndContinue(t *testing.T) {
	t.Parallel()
	p := startProcess(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	expectImage(t, p.put(photo))
	p.signal(syscall.SIGSTOP)
	waiting := p.later(photo)
	p.signal(syscall.SIGCONT)
	expectImage(t, <-waiting)
}

// Lines of net/http's own have the log's format.
func TestTheLogOfNetHTTP(t *testing.T) {
	t.Parallel()
	p := shell(t, `ulimit -n 16; exec "$@"`, "--max-connections", "100", module("negate.pt"))
	for range 40 {
		p.dial()
	}
	line := p.log.await(t, "message", "net/http")
	if text := fmt.Sprint(line["error"]); line["level"] != "warn" || !strings.Contains(text, "too many open files") {
		t.Errorf("got %v, want a warning with net/http's text", line)
	}
	if p.log.count("text", nil) > 0 {
		t.Error("the log has lines that aren't JSON")
	}
}
