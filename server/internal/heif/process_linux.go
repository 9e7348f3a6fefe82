package heif

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func program() (string, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return "", fmt.Errorf("heif: find the decoder: %w", err)
	}
	before, _, found := strings.Cut(string(maps), "/libtorchherd.so")
	if !found {
		return "", errors.New("heif: find the decoder: libtorchherd isn't loaded")
	}
	line := before[strings.LastIndexByte(before, '\n')+1:]
	return filepath.Join(line[strings.IndexByte(line, '/'):], "torchherd-heif"), nil
}

func check(program string) (string, error) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return "", errNotHere
	}
	command := exec.Command(program, "check")
	out, err := command.Output()
	text := strings.TrimSpace(string(out))
	if err != nil {
		if text != "" {
			return "", errors.New(text)
		}
		return "", fmt.Errorf("heif: start the decoder: %w", err)
	}
	return text, nil
}

// What the program's replies begin with.
const (
	done = iota
	broken
	unsupported
	outOfMemory
)

func (d *Decoder) decode(ctx context.Context, r *Request) error {
	command := exec.CommandContext(ctx, d.program)
	command.Env = []string{} // it needs none, and the server's has secrets
	if path := os.Getenv("LD_LIBRARY_PATH"); path != "" {
		command.Env = append(command.Env, "LD_LIBRARY_PATH="+path)
	}
	// A group of its own keeps Ctrl-C on a terminal from reaching it, while the server drains.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.WaitDelay = time.Second
	channels := 3
	if r.Alpha {
		channels = 4
	}
	command.Stdin = io.MultiReader(bytes.NewReader(r.head(channels)), bytes.NewReader(r.File))
	out, err := command.StdoutPipe()
	if err != nil {
		return fmt.Errorf("heif: start the decoder: %w", err)
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("heif: start the decoder: %w", err)
	}
	// When memory runs out, the kernel ends this process rather than the server.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", command.Process.Pid), []byte("1000"), 0)
	err = r.read(out, channels)
	if err != nil {
		_ = command.Process.Kill()
	}
	_ = out.Close()
	ended := command.Wait()
	var failure *Error
	if errors.As(err, &failure) && failure.Kind == Crashed || err == nil && ended != nil {
		return explained(command.ProcessState)
	}
	return err
}

// head returns the program's Request.
func (r *Request) head(channels int) []byte {
	out := binary.NativeEndian.AppendUint64(nil, uint64(r.Memory))
	for _, n := range []int{max(1, int(r.Time/time.Second)), len(r.File), r.Width, r.Height, channels, 0} { // 0: the structure's padding
		out = binary.NativeEndian.AppendUint32(out, uint32(n))
	}
	return out
}

// read reads the reply and the rows.
func (r *Request) read(out io.Reader, channels int) error {
	var status uint32
	if binary.Read(out, binary.NativeEndian, &status) != nil {
		return &Error{Crashed, ""}
	}
	if status != done {
		const longest = 300
		text, err := io.ReadAll(io.LimitReader(out, longest))
		if err != nil {
			return &Error{Crashed, ""}
		}
		kind := Broken
		switch status {
		case unsupported:
			kind = Unsupported
		case outOfMemory:
			kind = TooMuch
		}
		return &Error{kind, string(text)}
	}
	band := make([]byte, channels*r.Width*min(r.Rows, r.Height))
	for y := 0; y < r.Height; y += r.Rows {
		part := band[:channels*r.Width*min(r.Rows, r.Height-y)]
		if _, err := io.ReadFull(out, part); err != nil {
			return &Error{Crashed, ""}
		}
		if err := r.Take(part); err != nil {
			return err
		}
	}
	return nil
}

// explained returns the error of a process that has ended early.
func explained(state *os.ProcessState) *Error {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGXCPU:
		return &Error{TooMuch, "the decoder has used all of its processor time"}
	case ok && status.Signaled():
		return &Error{Crashed, "the decoder was ended by " + status.Signal().String()}
	}
	return &Error{Crashed, "the decoder has ended: " + state.String()}
}
