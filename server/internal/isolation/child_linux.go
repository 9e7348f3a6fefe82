package isolation

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/torch"
)

// Supported reports whether this system has what runners need.
const Supported = true

// Main runs a runner's child and exits, if this process is one. A program that starts runners must call it first.
func Main() {
	if os.Getenv(Variable) == "" {
		mainCalled.Store(true)
		return
	}
	if err := runChild(os.Getenv(Variable)); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "torchherd runner: "+err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// mainCalled says that this program knows what a child is. Another program would do its own work in it, and perhaps start
// runners.
var mainCalled atomic.Bool

// A child is the state of this process as a runner's child.
type child struct {
	arena   []byte
	model   *torch.Module
	pending *torch.Answer // of the last opForward whose results haven't been read
	buffer  []byte
	request batchRequest
	images  torch.Images
	reply   []byte
}

func runChild(control string) error {
	if control != strconv.Itoa(controlDescriptor) {
		return fmt.Errorf("%s=%q is for torchherd's own use; unset it", Variable, control)
	}
	// The server decides when the child ends.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	crashPlainly()
	memory, err := mapArena(arenaDescriptor)
	if err != nil {
		return err
	}
	c := &child{arena: memory, buffer: make([]byte, maxMessage)}
	message, err := c.receive()
	if err != nil {
		return err
	}
	var load loadRequest
	if err := json.Unmarshal(message[4:], &load); err != nil {
		return err
	}
	loading := onThread
	if load.Background {
		loading = cpu.InBackground
	}
	var bind []byte
	err = loading(func() (err error) {
		if err := c.answer(c.load(&load)); err != nil {
			return err
		}
		bind, err = c.serve()
		return err
	})
	if err != nil {
		return err
	}
	// LibTorch's caches of the loading thread end with it.
	return onThread(func() error {
		for {
			if err := c.answer(reply{}, c.bind(bind)); err != nil {
				return err
			}
			if bind, err = c.serve(); err != nil {
				return err
			}
		}
	})
}

// crashPlainly gives the signals of a crash their default action. Go's own handlers would print the stacks of all
// goroutines and exit with status 2, which hides the signal.
func crashPlainly() {
	type action struct { // struct sigaction of the kernel
		handler, flags, restorer uintptr
		mask                     uint64
	}
	byDefault := action{}
	for _, each := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGFPE, syscall.SIGBUS, syscall.SIGILL, syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS} {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(each), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	}
}

// onThread calls f on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

// receive returns the next request, valid until the next call. The error is io.EOF when the server has ended.
func (c *child) receive() ([]byte, error) {
	n, err := retry(func() (int, error) { return unix.Read(controlDescriptor, c.buffer) })
	switch {
	case err != nil:
		return nil, fmt.Errorf("receive a request: %w", err)
	case n < 4:
		return nil, io.EOF
	}
	return c.buffer[:n], nil
}

// send sends a reply.
func (c *child) send(r *reply) error {
	c.reply = r.append(c.reply[:0])
	if _, err := retry(func() (int, error) { return unix.Write(controlDescriptor, c.reply) }); err != nil {
		return fmt.Errorf("send a reply: %w", err)
	}
	return nil
}

// answer sends the reply of an operation, or its error.
func (c *child) answer(r reply, err error) error {
	if err != nil {
		return c.send(&reply{status: statusError, text: encodeError(err)})
	}
	if r.status == 0 {
		r.status = statusOK
	}
	return c.send(&r)
}

// serve answers requests until one is opBind, which it returns.
func (c *child) serve() ([]byte, error) {
	for {
		message, err := c.next()
		if err != nil {
			return nil, err
		}
		op, rest := operation(binary.LittleEndian.Uint32(message)), message[4:]
		if op == opBind {
			return rest, nil
		}
		start := cpu.ThreadTime()
		r, err := c.do(op, rest)
		r.cpu = uint64(cpu.ThreadTime() - start)
		if err := c.answer(r, err); err != nil {
			return nil, err
		}
	}
}

// next returns the next request that isn't a batch as usual.
func (c *child) next() ([]byte, error) {
	if c.model == nil { // the load has failed, and the server ends this process
		return c.receive()
	}
	for {
		served, err := c.model.ServeImages(controlDescriptor, uint32(opForward), uint32(statusOK), c.arena, c.buffer)
		switch {
		case err != nil:
			return nil, fmt.Errorf("serve batches: %w", err)
		case len(served.Message) < 4:
			return nil, io.EOF
		case served.Answer == nil && served.Err == nil:
			return served.Message, nil
		}
		r := reply{status: statusPending, cpu: uint64(served.CPU)}
		if served.Err == nil {
			r.height, r.width, r.channels = served.Answer.Height, served.Answer.Width, served.Answer.Channels
			c.keep(served.Answer)
		}
		if err := c.answer(r, served.Err); err != nil {
			return nil, err
		}
	}
}

// keep keeps the results of a batch until the server wants them.
func (c *child) keep(answer *torch.Answer) {
	if c.pending != nil { // it doesn't any more
		_, _ = c.pending.Read(nil)
	}
	c.pending = answer
}

// probe is set by tests, which see with it what a child may do.
var probe func() []byte

func (c *child) do(op operation, rest []byte) (reply, error) {
	switch op {
	case opSetThreads:
		return reply{}, torch.SetNumThreads(int(binary.LittleEndian.Uint32(rest)))
	case opProbe:
		return reply{text: probe()}, nil
	case opCheck, opForward, opRead:
		if err := c.request.parse(rest); err != nil {
			return reply{}, err
		}
		if err := c.takeParts(); err != nil {
			return reply{}, err
		}
	default:
		return reply{}, fmt.Errorf("unknown operation %d", op)
	}
	switch op {
	case opCheck:
		return reply{}, c.model.CheckFinite(c.batch())
	case opForward:
		return c.forward()
	}
	return c.read()
}

// load loads the model that the server has opened.
func (c *child) load(r *loadRequest) (reply, error) {
	start := cpu.ThreadTime()
	lacking := restrictCalls(r.Device != torch.CPU.String())
	device, err := torch.NewDevice(r.Device)
	if err != nil {
		return reply{}, err
	}
	if err := device.Available(); err != nil {
		return reply{}, err
	}
	for _, library := range r.Operators {
		if err := torch.LoadOperators(library); err != nil {
			return reply{}, err
		}
	}
	if err := torch.SetNumThreads(1); err != nil {
		return reply{}, err
	}
	file, err := torch.NewFile(os.NewFile(modelDescriptor, r.Name))
	if err != nil {
		return reply{}, err
	}
	c.model, err = file.Load(torch.Options{
		Device: device, Precision: torch.Precision(r.Precision), CUDAGraphs: r.CUDAGraphs, Values: r.Values, Inputs: r.Inputs, PackageFolder: r.Scratch,
	})
	if err != nil {
		return reply{}, err
	}
	info := c.model.Info()
	text, err := json.Marshal(loadReply{info.Inputs, int32(info.Precision), info.Parameters, info.Bytes, lacking})
	return reply{cpu: uint64(cpu.ThreadTime() - start), text: text}, err
}

// bind prepares the calling thread for batches.
func (*child) bind(rest []byte) error {
	if err := cpu.SetNice(int(binary.LittleEndian.Uint32(rest))); err != nil {
		return err
	}
	return torch.SetNumThreads(int(binary.LittleEndian.Uint32(rest[4:])))
}

// batch returns the images of the request.
func (c *child) batch() torch.Images {
	r := &c.request
	c.images.Height, c.images.Width, c.images.Channels = r.height, r.width, r.channels
	c.images.Items = c.images.Items[:0]
	size := r.height * r.width * r.channels
	for _, offset := range r.inputs {
		c.images.Items = append(c.images.Items, c.arena[offset:][:size])
	}
	return c.images
}

// takeParts sets the further inputs of the request's images.
func (c *child) takeParts() (err error) {
	c.images.Parts, err = parseParts(c.request.parts, len(c.request.inputs), c.arena)
	return err
}

// forward runs a batch of which ServeImages knows too little: the shape of its results, that the model takes it, or its
// further inputs.
func (c *child) forward() (reply, error) {
	answer, err := c.model.ForwardImages(c.batch())
	if err != nil {
		return reply{}, err
	}
	c.keep(answer)
	if r := &c.request; len(r.outputs) > 0 && r.outHeight == answer.Height && r.outWidth == answer.Width && r.outChannels == answer.Channels {
		return c.read()
	}
	return reply{status: statusPending, height: answer.Height, width: answer.Width, channels: answer.Channels}, nil
}

// read writes the results of the last batch to the request's outputs.
func (c *child) read() (reply, error) {
	if c.pending == nil {
		return reply{}, errors.New("there are no results to read")
	}
	answer := c.pending
	c.pending = nil
	next := 0
	_, err := answer.Read(func(size int) []byte {
		offset := c.request.outputs[next]
		next++
		return c.arena[offset:][:size]
	})
	return reply{}, err
}
