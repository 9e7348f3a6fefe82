package readiness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/torchherd/torchherd/server/internal/readiness"
)

// childMode makes this test program a child process that does what the variable's value names; see children.
const childMode = "TORCHHERD_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		if err := children[mode](); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var report = readiness.Report{
	Address: "127.0.0.1:8000", AdminAddress: "127.0.0.1:8002",
	Models: []readiness.Model{
		{Name: "a", Version: "3", Device: "cuda:0,cuda:1", Instances: 4, Threads: 1, Precision: "bf16"},
		{Name: "b", Version: "1", Device: "cpu", Instances: 1, Threads: 2, Precision: "fp32"},
	},
}

var children = map[string]func() error{
	"report": func() error { return readiness.Notify(report) },
	// As serve does, which restarts itself with other environment variables.
	"restart": func() error {
		program, err := os.Executable()
		if err == nil {
			err = os.Setenv(childMode, "report")
		}
		if err == nil {
			err = syscall.Exec(program, os.Args, os.Environ())
		}
		return err
	},
	"exit": func() error { return nil },
	"kill": func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) },
	"wait": wait,
	"report and wait": func() error {
		if err := readiness.Notify(report); err != nil {
			return err
		}
		return wait()
	},
	"half a report": func() error { return write(`{"address":"127.0.0.1:80`) },
	"no report":     func() error { return write("hello\n") },
	"twice": func() error {
		number := os.Getenv(readiness.Variable)
		if err := readiness.Notify(report); err != nil {
			return err
		}
		if value, set := os.LookupEnv(readiness.Variable); set {
			return fmt.Errorf("the variable is still %q", value)
		}
		if err := readiness.Notify(report); err != nil {
			return fmt.Errorf("without the variable: %w", err)
		}
		if err := os.Setenv(readiness.Variable, number); err != nil {
			return err
		}
		if err := readiness.Notify(report); err == nil || !strings.Contains(err.Error(), "not an open descriptor") {
			return fmt.Errorf("with a closed descriptor: %w", err)
		}
		return nil
	},
}

// wait returns when the parent closes the standard input.
func wait() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func write(text string) error {
	descriptor, err := strconv.Atoi(os.Getenv(readiness.Variable))
	if err != nil {
		return err
	}
	_, err = os.NewFile(uintptr(descriptor), "pipe").WriteString(text)
	return err
}

// A child is a running child process.
type child struct {
	process  *exec.Cmd
	listener *readiness.Listener
	stdin    io.Closer
	out      bytes.Buffer
}

func start(t *testing.T, mode string, files ...*os.File) *child {
	t.Helper()
	c := &child{process: exec.CommandContext(t.Context(), os.Args[0])}
	// Under the race detector a process sleeps for a second before it exits.
	c.process.Env = append(os.Environ(), childMode+"="+mode, "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	c.process.ExtraFiles = files
	c.process.Stdout = &c.out
	var err error
	if c.stdin, err = c.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if c.listener, err = readiness.Listen(c.process); err != nil {
		t.Fatal(err)
	}
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	c.listener.Started()
	return c
}

func TestReport(t *testing.T) {
	for _, mode := range []string{"report", "restart", "twice", "report and wait"} {
		c := start(t, mode)
		got, err := c.listener.Wait(t.Context())
		if err != nil || !reflect.DeepEqual(got, report) {
			t.Errorf("%s: got %+v, %v", mode, got, err)
		}
		_ = c.stdin.Close()
		if err := c.process.Wait(); err != nil {
			t.Errorf("%s: %v: %s", mode, err, &c.out)
		}
	}
}

func TestReportBesideOtherFiles(t *testing.T) {
	other, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	c := start(t, "report", other)
	if got, err := c.listener.Wait(t.Context()); err != nil || got.Address != report.Address {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := c.process.Wait(); err != nil {
		t.Errorf("%v: %s", err, &c.out)
	}
}

func TestNoReport(t *testing.T) {
	for _, mode := range []string{"exit", "kill", "half a report"} {
		c := start(t, mode)
		if got, err := c.listener.Wait(t.Context()); !errors.Is(err, readiness.ErrExited) {
			t.Errorf("%s: got %+v, %v", mode, got, err)
		}
		_ = c.process.Wait()
	}
	c := start(t, "no report")
	if got, err := c.listener.Wait(t.Context()); err == nil || errors.Is(err, readiness.ErrExited) {
		t.Errorf("got %+v, %v from a line that isn't a report", got, err)
	}
	_ = c.process.Wait()
}

func TestWaitEndsWithItsContext(t *testing.T) {
	c := start(t, "wait")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := c.listener.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", got, err)
	}
	_ = c.stdin.Close()
	if err := c.process.Wait(); err != nil {
		t.Error(err)
	}
}

func TestNotifyWithoutTheVariable(t *testing.T) {
	t.Setenv(readiness.Variable, "")
	if err := readiness.Notify(report); err != nil {
		t.Error(err)
	}
}

func TestNotifyRefusesOtherDescriptors(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(file.Close(), reading.Close(), writing.Close()) }()
	number := func(f *os.File) string { return strconv.Itoa(int(f.Fd())) }
	for value, want := range map[string]string{
		"three":         "not the number of a descriptor",
		"-1":            "not the number of a descriptor",
		"1":             "not the number of a descriptor",
		"1000000":       "not an open descriptor",
		number(file):    "not the writing end of a pipe",
		number(reading): "not the writing end of a pipe",
	} {
		t.Setenv(readiness.Variable, value)
		err := readiness.Notify(report)
		if err == nil || !strings.Contains(err.Error(), readiness.Variable+"="+value+": "+want) {
			t.Errorf("%s: got %v, want %q", value, err, want)
		}
	}
	if _, err := file.WriteString("still open"); err != nil {
		t.Error(err)
	}
}

func TestNotifyWithoutAReader(t *testing.T) {
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writing.Close() }()
	_ = reading.Close()
	copied, err := syscall.Dup(int(writing.Fd())) // which Notify closes
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(readiness.Variable, strconv.Itoa(copied))
	if err := readiness.Notify(report); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v", err)
	}
}

// Other programs read the report, so its keys stay.
func TestKeys(t *testing.T) {
	text, err := json.Marshal(readiness.Report{Address: "a:1", Models: report.Models[1:]})
	const want = `{"address":"a:1","models":[{"name":"b","version":"1","device":"cpu","instances":1,"threads":2,"precision":"fp32"}]}`
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v", text, err)
	}
}
