package isolation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/torchherd/torchherd/torch"
)

// The descriptors of a child.
const (
	controlDescriptor = 3 + iota
	arenaDescriptor
	modelDescriptor
)

// A process is a running child. Its calls run one after the other.
type process struct {
	command *exec.Cmd
	output  tail
	scratch string
	cgroup  string        // the child's own; empty: none
	lacking []string      // of the restrictions
	unwatch func() bool   // keeps the end of the load's context from killing the child
	dead    chan struct{} // closed when the child has ended

	calls   sync.Mutex // held during a call
	control int        // the server's end of the socket; -1: closed
	buffer  []byte

	mu     sync.Mutex
	killed error // why the server killed the child; nil: it didn't
}

// startProcess starts a child. The caller must call end.
func startProcess(config *Config, model *os.File) (*process, error) {
	if !mainCalled.Load() {
		return nil, errors.New("isolation: this program doesn't call isolation.Main first")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("isolation: create a socket pair: %w", err)
	}
	control := os.NewFile(uintptr(pair[1]), "control")
	defer func() { _ = control.Close() }()
	p := &process{control: pair[0], dead: make(chan struct{}), buffer: make([]byte, maxMessage)}
	p.scratch, err = os.MkdirTemp(config.Options.PackageFolder, "torchherd-runner-")
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, fmt.Errorf("isolation: create the runner's scratch folder: %w", err)
	}
	p.command = exec.Command("/proc/self/exe") // also after another program has taken this one's name
	p.command.Args = []string{"torchherd-runner", config.Model.Name}
	p.command.Env = childEnvironment(p.scratch)
	p.command.ExtraFiles = []*os.File{control, config.Arena.file, model}
	p.command.Stderr = &p.output
	p.command.WaitDelay = time.Second
	// A group of its own keeps Ctrl-C on a terminal from reaching the child, while the server drains.
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		_ = unix.Close(pair[0])
		_ = os.RemoveAll(p.scratch)
		return nil, fmt.Errorf("isolation: start a runner: %w", err)
	}
	p.limit(config)
	return p, nil
}

// run starts the child and waits for its end on a thread of its own, which ends with the child: the kernel ends the child
// with the thread that started it, and the thread passes its restrictions on.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread() // never unlocked
	p.lacking = restrictFiles(p.scratch)
	err := p.command.Start()
	started <- err
	if err != nil {
		return
	}
	_ = p.command.Wait() // ProcessState has the reason
	close(p.dead)
}

// childEnvironment returns the environment of a child: the server's own, without torchherd's settings, which can hold
// secrets, and with what the libraries read when a process starts.
func childEnvironment(scratch string) []string {
	var environment []string
	for _, setting := range append(os.Environ(), torch.MissingEnvironment()...) {
		if !strings.HasPrefix(setting, "TORCHHERD_") {
			environment = append(environment, setting)
		}
	}
	// Go needs little of the child's processor: a thread that waits, and one that collects garbage.
	return append(environment, Variable+"="+strconv.Itoa(controlDescriptor), "TMPDIR="+scratch, "CUDA_CACHE_PATH="+scratch, "GOMAXPROCS=2")
}

// limit sets the child's limits. Those that aren't permitted are left out.
func (p *process) limit(config *Config) {
	pid := p.command.Process.Pid
	set := func(resource int, value uint64) {
		_ = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: value, Max: value}, nil)
	}
	set(unix.RLIMIT_CORE, 0)
	// CUDA reserves more address space than a limit of memory allows.
	if config.MaxMemory > 0 && config.Options.Device == torch.CPU {
		set(unix.RLIMIT_DATA, uint64(config.MaxMemory))
	}
	if config.MaxMemory > 0 {
		p.cgroup = joinCgroup(pid, config.MaxMemory)
	}
	// When memory runs out, the kernel ends the child rather than the server.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0)
}

// call sends a request and returns the reply, valid until the next call. When the limit passes (0: none), or the child
// ends, the error is a *CrashError, or the reason of kill.
func (p *process) call(request []byte, limit time.Duration, late error) ([]byte, error) {
	p.calls.Lock()
	defer p.calls.Unlock()
	if p.control < 0 {
		return nil, errStopped
	}
	if limit > 0 {
		defer time.AfterFunc(limit, func() { p.kill(late) }).Stop()
	}
	// The write never blocks, since the child reads one request at a time, so Go's scheduler needn't know of it.
	_, _, failed := unix.RawSyscall(unix.SYS_WRITE, uintptr(p.control), uintptr(unsafe.Pointer(unsafe.SliceData(request))), uintptr(len(request)))
	if failed != 0 {
		return nil, p.crash()
	}
	n, err := retry(func() (int, error) { return unix.Read(p.control, p.buffer) })
	if err != nil || n == 0 {
		return nil, p.crash()
	}
	return p.buffer[:n], nil
}

// retry calls a system call until no signal interrupts it.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// kill ends the child for this reason, unless it has ended or was killed already.
func (p *process) kill(reason error) {
	p.mu.Lock()
	if p.killed == nil {
		p.killed = reason
	}
	p.mu.Unlock()
	_ = p.command.Process.Kill()
}

// alive reports whether the child hasn't ended. After a failed call it is exact: crash has waited for the end.
func (p *process) alive() bool {
	select {
	case <-p.dead:
		return false
	default:
		return true
	}
}

// crash waits until the child has ended, and returns why it has.
func (p *process) crash() error {
	_ = p.command.Process.Kill() // it has closed its socket, so it is ending or of no use
	<-p.dead
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed != nil {
		return p.killed
	}
	return &CrashError{Cause: causeOf(p.command.ProcessState), Output: p.output.line()}
}

// end kills the child, waits for its end and releases what it used.
func (p *process) end() {
	p.kill(errStopped)
	<-p.dead
	p.calls.Lock()
	defer p.calls.Unlock()
	if p.control >= 0 {
		_ = unix.Close(p.control)
		p.control = -1
		_ = os.RemoveAll(p.scratch)
		if p.cgroup != "" {
			_ = os.Remove(p.cgroup)
		}
	}
}

// causeOf describes how a child has ended.
func causeOf(state *os.ProcessState) string {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return state.String()
	}
	signal := status.Signal()
	text := fmt.Sprintf("%s (%s)", unix.SignalName(signal), signal)
	if signal == syscall.SIGKILL {
		text += ", by the kernel for lack of memory, or by another process"
	}
	return text
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const keptOutput = 4 << 10

func (t *tail) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text...)
	if excess := len(t.text) - keptOutput; excess > 0 {
		t.text = append(t.text[:0], t.text[excess:]...)
	}
	return len(text), nil
}

// line returns the line that says most: Go's own reason if there is one, or else the last one.
func (t *tail) line() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var last []byte
	for line := range bytes.Lines(t.text) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("fatal error: ")) || bytes.HasPrefix(line, []byte("panic: ")) {
			return string(line)
		}
		if len(line) > 0 {
			last = line
		}
	}
	const longest = 300
	if len(last) > longest {
		last = append(bytes.Clone(last[:longest]), " ..."...)
	}
	return string(last)
}
