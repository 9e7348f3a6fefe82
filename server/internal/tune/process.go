package tune

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// grace is how long a server may take to end before it is killed.
const grace = 5 * time.Second

// A server is a running `torchherd serve`.
type server struct {
	url     string // of /image
	threads int
	device  string

	process *exec.Cmd
	cancel  context.CancelFunc
	ready   chan struct{} // closed when it is
	ended   chan struct{} // closed when the process has ended; then the following are there
	err     error         // why, if not by its own decision
	said    []string      // what it said beside its log
}

// startServer starts a server and returns when it is ready. The end of ctx stops it: at first by SIGTERM. It shares the
// process group with this process, so that a terminal's Ctrl-C and hang-up reach both.
func startServer(ctx context.Context, program string, arguments []string) (*server, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{cancel: cancel, ready: make(chan struct{}), ended: make(chan struct{})}
	s.process = exec.CommandContext(ctx, program, arguments...)
	s.process.Cancel = func() error { return s.process.Process.Signal(syscall.SIGTERM) }
	s.process.WaitDelay = grace
	stderr, err := s.process.StderrPipe()
	if err == nil {
		err = s.process.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	go s.follow(stderr)
	select {
	case <-s.ready:
		return s, nil
	case <-s.ended:
		cancel()
		return nil, s.reason()
	}
}

// stop returns when the process has ended.
func (s *server) stop() {
	s.cancel()
	<-s.ended
}

// A logLine is what is looked for in the lines of the server's log.
type logLine struct {
	Message string `json:"message"`
	Address string `json:"address"`
	Threads int    `json:"threads"`
	Device  string `json:"device"`
}

// follow reads what the process says until it ends.
func (s *server) follow(stderr io.Reader) {
	defer close(s.ended)
	lines := bufio.NewReader(stderr)
	isReady := false
	for {
		text, err := lines.ReadString('\n')
		switch isLog := strings.HasPrefix(text, "{"); {
		case !isLog && text != "":
			s.said = append(s.said, strings.TrimSuffix(text, "\n"))
		case isLog && !isReady: // later lines are about requests, and to read them would take time from the server
			isReady = s.learn(text)
		}
		if err != nil {
			break
		}
	}
	s.err = s.process.Wait()
}

// learn takes in a line of the log, and says whether the server is ready.
func (s *server) learn(text string) bool {
	var line logLine
	if json.Unmarshal([]byte(text), &line) != nil {
		return false
	}
	if line.Address != "" {
		s.url = "http://" + line.Address + "/image"
	}
	switch line.Message {
	case "the version is ready":
		s.threads, s.device = line.Threads, line.Device
	case "ready":
		close(s.ready)
		return true
	}
	return false
}

// complaint is what the command begins an error with.
const complaint = "torchherd: "

// reason says why the process ended: its own error, or else how it ended and the last that it said.
func (s *server) reason() error {
	said := strings.Join(s.said, "\n")
	if at := strings.LastIndex("\n"+said, "\n"+complaint); at >= 0 {
		return errors.New(said[at+len(complaint):])
	}
	how := fmt.Errorf("the server ended by itself: %w", s.err)
	if s.err == nil {
		how = errors.New("the server ended by itself")
	}
	if len(s.said) > 0 {
		return fmt.Errorf("%w; it said: %s", how, s.said[len(s.said)-1])
	}
	return how
}

// dying is how long a process may take to end after its connections broke.
const dying = time.Second

// blame is the error of a measurement: the reason why the server has ended, if it has, else what was seen.
func (s *server) blame(seen error) error {
	select {
	case <-s.ended:
		return s.reason()
	case <-time.After(dying):
		return seen
	}
}
