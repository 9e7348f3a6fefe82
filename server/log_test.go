package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// startWithLog starts a process whose stderr is a pipe, and returns it and the reading end.
func startWithLog(t *testing.T, arguments ...string) (*process, *os.File) {
	t.Helper()
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reading.Close() })
	command := serveCommand(arguments...)
	command.Stderr = writing
	p := startCommand(t, command)
	if err := writing.Close(); err != nil {
		t.Fatal(err)
	}
	return p, reading
}

// Nobody reads the log: neither requests nor a signal wait for it. A reader that comes late finds whole lines.
func TestStuckLogReader(t *testing.T) {
	t.Parallel()
	p, reading := startWithLog(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	for range 1500 {
		if r := p.put(photo); r.status != 200 {
			t.Fatalf("got %d %s, want 200", r.status, r.body)
		}
	}
	p.expectOrderlyEnd()
	// The pipe has 64 KiB of lines. The last of them may have been cut by the end of the process.
	lines := bufio.NewReader(reading)
	for count := 0; ; count++ {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if count < 100 {
				t.Errorf("%d lines, want more", count)
			}
			break
		}
		if !json.Valid(line) {
			t.Fatalf("not a line of JSON: %q", line)
		}
	}
}

// The reader of the log has gone: the server serves, and a signal ends it as ever.
func TestLogReaderGone(t *testing.T) {
	t.Parallel()
	p, reading := startWithLog(t, module("negate.pt"))
	if err := reading.Close(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		expectImage(t, p.put(photograph(t, "jpeg-small.jpg")))
	}
	p.expectOrderlyEnd()
}

// The reader of the readiness descriptor has gone before the server is ready, which serves all the same.
func TestReadinessReaderGone(t *testing.T) {
	t.Parallel()
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reading.Close(); err != nil {
		t.Fatal(err)
	}
	log := newLogLines()
	command := serveCommand(module("negate.pt"))
	command.Env = append(command.Env, "TORCHHERD_READY_FD=3")
	command.ExtraFiles = []*os.File{writing}
	command.Stderr = log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writing.Close()
	address, _ := log.await(t, "libtorch", nil, "address", nil)["address"].(string)
	log.await(t, "models", 1.0) // ready
	log.await(t, "level", "warn")
	expectImage(t, target{t, "http://" + address}.put(photograph(t, "jpeg-small.jpg")))
	if err := command.Process.Signal(terminate); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil {
		t.Errorf("got %v, want exit status 0", err)
	}
	log.print(t)
}

// net/http's own errors are lines of the log.
func TestHTTPErrorsAreLogged(t *testing.T) {
	t.Parallel()
	p := shell(t, `ulimit -n 40 && exec "$@"`, "--max-connections", "1000", module("negate.pt"))
	for range 60 {
		_ = p.dial()
	}
	if text, _ := p.log.await(t, "level", "warn", "error", nil)["error"].(string); !strings.Contains(text, "too many open files") {
		t.Errorf("the line has the error %q", text)
	}
	if p.log.count("text", nil) > 0 {
		t.Errorf("a line isn't JSON: %v", p.log.await(t, "text", nil))
	}
}
