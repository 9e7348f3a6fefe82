package tune

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// The tests of the whole command, in package main of server, measure real servers. Here shell scripts stand in for servers
// that misbehave.

// parentOf makes this test program the parent of the server that the variable's value names, until it is killed.
const parentOf = "TORCHHERD_TEST_PARENT_OF"

func TestMain(m *testing.M) {
	program := os.Getenv(parentOf)
	if program == "" {
		os.Exit(m.Run())
	}
	_, err := startServer(context.Background(), program, nil, nil)
	fmt.Println("started:", err)
	select {}
}

// script returns the path of a new shell script.
func script(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// ready reports a server at a port where nothing listens.
const ready = `echo '{"address":"127.0.0.1:1","models":[{"name":"m","device":"cpu"}]}' >&"$TORCHHERD_READY_FD"; `

// measure measures a program. It calls onReady when that is ready.
func measure(t *testing.T, program string, onReady func(context.CancelFunc)) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	servers := &Servers{Config: Config{Clients: 1, Duration: 1}, Program: program, Images: [][]byte{loadgen.DefaultImage}}
	_, err := servers.Measure(ctx, Defaults(), func(loadgen.Progress) { onReady(cancel) })
	return err
}

func TestServerThatExitsUnexpectedly(t *testing.T) {
	for text, want := range map[string]string{
		"exit 0":                             "server exited unexpectedly",
		"exit 7":                             "server exited unexpectedly: exit status 7",
		"echo oh dear >&2; exit 7":           "exit status 7; its last output: oh dear",
		"kill -9 $$":                         "signal: killed",
		ready + "kill -9 $$":                 "signal: killed",
		"echo torchherd: no >&2":             "no",
		"echo 'torchherd: a\nb'>&2":          "a\nb",
		"echo '{\"message\":\"ready\"}' >&2": "server exited unexpectedly", // a log line isn't output
	} {
		err := measure(t, script(t, text), func(context.CancelFunc) {})
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	if err := measure(t, "no such program", nil); err == nil {
		t.Error("no error for a program that doesn't exist")
	}
}

// The script would wait for an hour if it weren't stopped after its report.
func TestServerWithAnInvalidReport(t *testing.T) {
	for report, want := range map[string]string{
		"hello":                     "the report: ",
		`{"address":"127.0.0.1:1"}`: "the server reports no model",
	} {
		text := "echo '" + report + `' >&"$TORCHHERD_READY_FD"; exec sleep 3600`
		if err := measure(t, script(t, text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", report, err, want)
		}
	}
}

// A server that ignores SIGTERM is killed. Otherwise this test would take an hour.
func TestServerThatIgnoresSIGTERM(t *testing.T) {
	text := "trap '' TERM; " + ready + "exec sleep 3600"
	if err := measure(t, script(t, text), func(stop context.CancelFunc) { stop() }); err == nil {
		t.Error("no error for a server that doesn't listen")
	}
}

func TestPSNR(t *testing.T) {
	uniform := func(value uint8) pixels {
		p := image.NewNRGBA(image.Rect(0, 0, 4, 2))
		for i := range p.Pix {
			p.Pix[i] = value
			if i%4 == 3 {
				p.Pix[i] = 255
			}
		}
		return p
	}
	one := uniform(10)
	one.Pix[0] += 20 // one of 24 values
	for _, test := range []struct {
		a, b pixels
		want float64
	}{
		{uniform(10), uniform(10), MaxPSNR},
		{uniform(10), uniform(11), 20 * math.Log10(255)},
		{uniform(0), uniform(255), 0},
		{uniform(10), one, 10 * math.Log10(255*255*24/400.0)},
	} {
		for _, pair := range [][2]pixels{{test.a, test.b}, {test.b, test.a}} {
			if got, err := psnr(pair[0], pair[1]); err != nil || math.Abs(got-test.want) > 1e-9 {
				t.Errorf("got %v dB, %v, want %v", got, err, test.want)
			}
		}
	}
	if _, err := psnr(uniform(1), image.NewNRGBA(image.Rect(0, 0, 2, 4))); err == nil {
		t.Error("no error for images of different sizes")
	}
}

// The server inherits a pipe, whose reading end sees the end of the file when the server has exited.
func TestServerEndsWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can end a process together with its parent")
	}
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reading.Close() }()
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentOf+"="+script(t, ready+"exec sleep 3600"))
	parent.ExtraFiles = []*os.File{writing, writing} // in the server, the pipe of its readiness replaces the first
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writing.Close()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "started: <nil>\n" {
		t.Errorf("%q, %v", line, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := reading.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := reading.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the server is still running: %v", err)
	}
	_ = parent.Wait()
}
