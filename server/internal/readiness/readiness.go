// Package readiness lets a server report to the process that started it that it is ready.
//
// The starting process passes the writing end of a pipe and names its descriptor in the environment variable
// TORCHHERD_READY_FD. When the server is ready it writes a Report, one line of JSON, and closes the descriptor. If the
// server exits first, the reading end sees the end of the file. A log can't serve this purpose: its wording changes.
package readiness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Variable is the environment variable with the number of the descriptor: the writing end of a pipe, 3 or above.
const Variable = "TORCHHERD_READY_FD"

// A Report describes a server that is ready to process images.
type Report struct {
	Address      string  `json:"address"`                 // host:port of the main listener; [::] stands for every address
	AdminAddress string  `json:"admin_address,omitempty"` // host:port of the admin API; empty if it is disabled
	Models       []Model `json:"models"`                  // in the order of the command line; the first is the default
}

// A Model describes the default version of a model.
type Model struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Device    string `json:"device"`    // such as "cpu" or "cuda:0,cuda:1"
	Instances int    `json:"instances"` // copies of the model, on all devices together
	Threads   int    `json:"threads"`   // that one forward may use on the CPU
	Precision string `json:"precision"` // such as "fp32"
}

// Notify writes a report to the descriptor that Variable names and closes it. It unsets Variable, so that processes
// started later don't inherit it. Notify does nothing if Variable is unset or empty.
func Notify(r Report) error {
	value := os.Getenv(Variable)
	if value == "" {
		return nil
	}
	pipe, err := inherited(value)
	if err != nil {
		return fmt.Errorf("readiness: %s=%s: %w; set it to the writing end of an inherited pipe, or unset it", Variable, value, err)
	}
	err = json.NewEncoder(pipe).Encode(r)
	if err := errors.Join(err, pipe.Close(), os.Unsetenv(Variable)); err != nil {
		return fmt.Errorf("readiness: %w", err)
	}
	return nil
}

// inherited returns the pipe with this descriptor. It checks the descriptor thoroughly: with a wrong number, Notify
// would otherwise write to, and close, a file or socket that the server has opened itself.
func inherited(number string) (*os.File, error) {
	const stderr = 2
	descriptor, err := strconv.ParseUint(number, 10, 31)
	if err != nil || descriptor <= stderr {
		return nil, errors.New("not the number of a descriptor, 3 or above")
	}
	flags, err := unix.FcntlInt(uintptr(descriptor), unix.F_GETFL, 0)
	if err != nil {
		return nil, errors.New("not an open descriptor")
	}
	var status unix.Stat_t
	if err := unix.Fstat(int(descriptor), &status); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	if status.Mode&unix.S_IFMT != unix.S_IFIFO || flags&unix.O_ACCMODE == unix.O_RDONLY {
		return nil, errors.New("not the writing end of a pipe")
	}
	return os.NewFile(uintptr(descriptor), Variable), nil
}

// ErrExited is returned by Wait if the process exited, or closed the descriptor, without a report.
var ErrExited = errors.New("readiness: the process exited before it was ready")

// A Listener receives the report of a process that this process starts.
type Listener struct{ reading, writing *os.File }

// Listen adds a pipe to a command that hasn't been started: to its ExtraFiles and, as Variable, to its environment.
// After starting the command the caller must call Started, then Wait or Close.
func Listen(cmd *exec.Cmd) (*Listener, error) {
	reading, writing, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("readiness: %w", err)
	}
	const first = 3 // the descriptor that ExtraFiles[0] has in the new process
	cmd.Env = append(cmd.Environ(), Variable+"="+strconv.Itoa(first+len(cmd.ExtraFiles)))
	cmd.ExtraFiles = append(cmd.ExtraFiles, writing)
	return &Listener{reading, writing}, nil
}

// Started closes this process's copy of the writing end. While it is open, Wait can't detect that the process exited.
func (l *Listener) Started() { _ = l.writing.Close() }

// Wait returns the report as soon as the process has written it, and closes the listener. It returns ErrExited if there
// is no report, and the context's error if the context ends first.
func (l *Listener) Wait(ctx context.Context) (Report, error) {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.reading.SetReadDeadline(time.Unix(0, 0)) })
	defer stop()
	line, err := bufio.NewReader(l.reading).ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF):
		return Report{}, ErrExited
	case ctx.Err() != nil:
		return Report{}, ctx.Err()
	case err != nil:
		return Report{}, fmt.Errorf("readiness: %w", err)
	}
	var r Report
	if err := json.Unmarshal(line, &r); err != nil {
		return Report{}, fmt.Errorf("readiness: the report: %w", err)
	}
	return r, nil
}

// Close closes both ends of the pipe. It may be called more than once.
func (l *Listener) Close() {
	_ = l.writing.Close()
	_ = l.reading.Close()
}
