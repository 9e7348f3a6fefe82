package tune

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/torchherd/torchherd/server/internal/readiness"
)

// killDelay is how long a server may take to exit after SIGTERM before it is killed.
const killDelay = 5 * time.Second

// A server is a running `torchherd serve`.
type server struct {
	url   string // of /image
	model readiness.Model

	process *exec.Cmd
	cancel  context.CancelFunc
	exited  chan struct{} // closed when the process has exited; the fields below are valid then
	err     error         // from exec.Cmd.Wait
	output  []string      // the lines of stderr that aren't log entries
}

// startServer starts a server and returns when it is ready. When ctx ends, the server gets SIGTERM. It is in the process
// group of this process, so that Ctrl-C and the hang-up of a terminal reach both.
func startServer(ctx context.Context, program string, environment, arguments []string) (*server, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{cancel: cancel, exited: make(chan struct{})}
	s.process = exec.CommandContext(ctx, program, arguments...)
	s.process.Env = append(s.process.Environ(), environment...)
	s.process.Cancel = func() error { return s.process.Process.Signal(syscall.SIGTERM) }
	s.process.WaitDelay = killDelay
	endWithParent(s.process)
	listener, err := readiness.Listen(s.process)
	if err != nil {
		cancel()
		return nil, err
	}
	defer listener.Close()
	started := make(chan error)
	go s.run(started)
	if err := <-started; err != nil {
		cancel()
		return nil, err
	}
	listener.Started()
	report, err := listener.Wait(ctx)
	switch {
	case errors.Is(err, readiness.ErrExited):
		<-s.exited
		err = s.exitError()
	case err == nil && len(report.Models) == 0:
		err = errors.New("the server reports no model")
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	s.url, s.model = "http://"+report.Address+"/image", report.Models[0]
	return s, nil
}

// stop ends the server and returns when the process has exited.
func (s *server) stop() {
	s.cancel()
	<-s.exited
}

// run starts the process, sends the error of that to started, and returns when the process has exited. It keeps its
// thread until then: see endWithParent.
func (s *server) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stderr, err := s.process.StderrPipe()
	if err == nil {
		err = s.process.Start()
	}
	started <- err
	if err != nil {
		return
	}
	defer close(s.exited)
	s.read(stderr)
	s.err = s.process.Wait()
}

// read collects the lines that aren't log entries, which are JSON.
func (s *server) read(stderr io.Reader) {
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		if line != "" && !strings.HasPrefix(line, "{") {
			s.output = append(s.output, strings.TrimSuffix(line, "\n"))
		}
		if err != nil {
			return
		}
	}
}

// errorPrefix is how the command begins an error on stderr.
const errorPrefix = "torchherd: "

// exitError returns why the process exited: the error that it printed, or else how it ended and its last output.
func (s *server) exitError() error {
	output := strings.Join(s.output, "\n")
	if at := strings.LastIndex("\n"+output, "\n"+errorPrefix); at >= 0 {
		return errors.New(output[at+len(errorPrefix):])
	}
	err := errors.New("server exited unexpectedly")
	if s.err != nil {
		err = fmt.Errorf("%w: %w", err, s.err)
	}
	if len(s.output) > 0 {
		return fmt.Errorf("%w; its last output: %s", err, s.output[len(s.output)-1])
	}
	return err
}

// exitDelay is how long a process may take to exit after its connections broke.
const exitDelay = time.Second

// cause returns why a measurement failed: the reason why the server exited, if it did, or else the error that its
// client got.
func (s *server) cause(err error) error {
	select {
	case <-s.exited:
		return s.exitError()
	case <-time.After(exitDelay):
		return err
	}
}
