package isolation

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/torch"
)

// A Runner is a model in a child process; see the package. It implements servable.Instance, with its rules.
type Runner struct {
	config Config
	model  *os.File
	state  string // of the file
	info   torch.Info

	supervision   Supervision // zero: a child that ends isn't replaced
	nice, threads int         // of Bind

	request batchRequest // reused
	message []byte
	shapes  map[shape]shape // of a result, by that of an input

	failed  chan error // capacity 1
	closing chan struct{}
	restart sync.WaitGroup

	mu      sync.Mutex
	process *process      // nil: being replaced, or ended for good
	ready   chan struct{} // closed when process is set or won't be any more
	cause   error         // why process is nil
	ends    int           // in a row, without a good batch between them
	used    time.Duration
	closed  bool
}

type shape struct{ height, width, channels int }

// Start starts a child and loads the model. The caller must Close the Runner. When ctx ends before Supervise is called,
// the child is killed, and the call under way fails with the cause of ctx.
//
// Errors: those of torch.File.Load; *CrashError; the cause of ctx; and those of the operating system.
func Start(ctx context.Context, config Config) (*Runner, error) {
	model, err := config.Model.keep()
	if err != nil {
		return nil, err
	}
	r := &Runner{
		config: config, model: model, shapes: map[shape]shape{},
		failed: make(chan error, 1), closing: make(chan struct{}), ready: make(chan struct{}),
	}
	close(r.ready)
	if r.state, err = fileState(model); err != nil {
		_ = model.Close()
		return nil, err
	}
	p, err := r.load(ctx, config.Background)
	if err != nil {
		_ = model.Close()
		return nil, err
	}
	r.process = p
	return r, nil
}

// load starts a child and loads the model. From then on, the end of ctx kills the child.
func (r *Runner) load(ctx context.Context, background bool) (*process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p, err := startProcess(&r.config, r.model)
	if err != nil {
		return nil, err
	}
	p.unwatch = context.AfterFunc(ctx, func() { p.kill(context.Cause(ctx)) })
	o := r.config.Options
	text, err := json.Marshal(loadRequest{
		Name: r.config.Model.Name, Device: o.Device.String(), Precision: int32(o.Precision), CUDAGraphs: o.CUDAGraphs, Values: o.Values, Inputs: o.Inputs,
		Operators: r.config.Operators, Scratch: p.scratch, Background: background,
	})
	if err == nil {
		var got reply
		if got, err = r.ask(p, append(binary.LittleEndian.AppendUint32(nil, uint32(opLoad)), text...)); err == nil {
			err = r.describe(p, got.text)
		}
	}
	if err != nil {
		p.unwatch()
		p.end()
		return nil, err
	}
	return p, nil
}

func (r *Runner) describe(p *process, text []byte) error {
	var loaded loadReply
	if err := json.Unmarshal(text, &loaded); err != nil {
		return fmt.Errorf("isolation: the runner's description: %w", err)
	}
	r.info = torch.Info{
		Inputs: loaded.Inputs, Device: r.config.Options.Device, Precision: torch.Precision(loaded.Precision), Parameters: loaded.Parameters, Bytes: loaded.Bytes,
	}
	p.lacking = append(p.lacking, loaded.Lacking...)
	return nil
}

// Lacking names the restrictions that the kernel doesn't enforce on the child.
func (r *Runner) Lacking() []string {
	p, err := r.live()
	if err != nil {
		return nil
	}
	return p.lacking
}

// ask makes a call without a limit of its own.
func (r *Runner) ask(p *process, message []byte) (reply, error) { return r.askWithin(p, message, 0) }

func (r *Runner) askWithin(p *process, message []byte, limit time.Duration) (reply, error) {
	var got reply
	text, err := p.call(message, limit, &CrashError{Cause: fmt.Sprintf("killed, because a batch took longer than %v", limit)})
	if err == nil {
		err = got.parse(text)
	}
	if err != nil {
		return reply{}, err
	}
	r.mu.Lock()
	r.used += time.Duration(got.cpu)
	r.mu.Unlock()
	if got.status == statusError {
		return reply{}, decodeError(got.text)
	}
	return got, nil
}

// Info describes the model.
func (r *Runner) Info() torch.Info { return r.info }

// ProcessorTime returns the processor time of the child's calls so far.
func (r *Runner) ProcessorTime() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

// Bind makes the child go on on a new thread with the model's nice value, and with this number of threads for a forward.
func (r *Runner) Bind(shares *cpu.Shares, model string, threads int) error {
	r.nice, r.threads = shares.Nice(model), threads
	p, err := r.live()
	if err != nil {
		return err
	}
	return r.bind(p)
}

func (r *Runner) bind(p *process) error {
	message := binary.LittleEndian.AppendUint32(nil, uint32(opBind))
	message = binary.LittleEndian.AppendUint32(message, uint32(r.nice))
	_, err := r.ask(p, binary.LittleEndian.AppendUint32(message, uint32(r.threads)))
	return err
}

// SetThreads changes the number of threads that a forward may use on the CPU.
func (r *Runner) SetThreads(threads int) error {
	r.threads = threads
	p, err := r.live()
	if err != nil {
		return err
	}
	message := binary.LittleEndian.AppendUint32(nil, uint32(opSetThreads))
	_, err = r.ask(p, binary.LittleEndian.AppendUint32(message, uint32(threads)))
	return err
}

// CheckFinite is torch.Module.CheckFinite.
func (r *Runner) CheckFinite(batch torch.Images) error {
	p, err := r.live()
	if err != nil {
		return err
	}
	done := r.prepare(batch)
	defer done()
	r.request.outputs = nil
	_, err = r.ask(p, r.request.append(nil, opCheck))
	return err
}

// prepare fills the request's inputs. Images outside the arena are copied into it, until the returned function is called.
func (r *Runner) prepare(batch torch.Images) (done func()) {
	q := &r.request
	q.height, q.width, q.channels = batch.Height, batch.Width, batch.Channels
	q.inputs = q.inputs[:0]
	var copies [][]byte
	place := func(item []byte) uint64 {
		offset, ours := r.config.Arena.offset(item)
		if !ours {
			moved := r.config.Arena.Alloc(len(item))
			copy(moved, item)
			copies = append(copies, moved)
			offset, _ = r.config.Arena.offset(moved)
		}
		return uint64(offset)
	}
	for _, item := range batch.Items {
		q.inputs = append(q.inputs, place(item))
	}
	q.parts = appendParts(q.parts[:0], batch.Parts, place)
	return func() {
		for _, each := range copies {
			r.config.Arena.Free(each)
		}
	}
}

// results are the output of a batch that has run. They are in the Arena already.
type results torch.Images

func (r *results) Read(func(int) []byte) (torch.Images, error) { return torch.Images(*r), nil }

// Start runs a batch. While the child is being replaced, it waits for the new one, or returns a *RestartError if the
// children end again and again.
func (r *Runner) Start(batch torch.Images) (Answer, error) {
	p, err := r.live()
	if err != nil {
		return nil, err
	}
	limit := time.Duration(0)
	if r.supervision.BatchLimit != nil {
		limit = r.supervision.BatchLimit(batch)
	}
	out, err := r.run(p, batch, limit)
	if err != nil && p.alive() && !r.works(p) {
		p.kill(&CrashError{Cause: "killed, because batches that used to work fail after this one: " + err.Error()})
		err = p.crash()
	}
	r.ended(p, err)
	if err != nil {
		return nil, err
	}
	return (*results)(&out), nil
}

// works reports whether a child in which a batch failed is still of use, by a batch of the warm-up. After some errors,
// such as an assertion in a kernel, all work on a CUDA device fails until the process ends; and a model that leaks memory
// gets none any more.
func (r *Runner) works(p *process) bool {
	if r.supervision.WarmUp == nil {
		return true
	}
	tried := false
	return r.supervision.WarmUp(func(batch torch.Images) error {
		if tried {
			return nil
		}
		tried = true
		out, err := r.run(p, batch, r.supervision.BatchLimit(batch))
		r.free(out.Items)
		return err
	}) == nil
}

// run runs a batch on a child.
func (r *Runner) run(p *process, batch torch.Images, limit time.Duration) (torch.Images, error) {
	count := len(batch.Items)
	if count > maxBatch {
		return torch.Images{}, fmt.Errorf("isolation: a batch has %d images and may have %d; lower max-batch-size", count, maxBatch)
	}
	done := r.prepare(batch)
	defer done()
	in := shape{batch.Height, batch.Width, batch.Channels}
	expected := r.shapes[in]
	items := r.alloc(expected, count)
	r.message = r.request.append(r.message[:0], opForward)
	if len(r.message) > maxMessage {
		r.free(items)
		return torch.Images{}, fmt.Errorf("isolation: a batch of %d images with their further inputs is too large; lower max-batch-size", count)
	}
	got, err := r.askWithin(p, r.message, limit)
	if err == nil && got.status == statusPending {
		r.free(items)
		if len(r.shapes) >= maxShapes {
			clear(r.shapes)
		}
		expected = shape{got.height, got.width, got.channels}
		r.shapes[in] = expected
		items = r.alloc(expected, count)
		r.message = r.request.append(r.message[:0], opRead)
		_, err = r.askWithin(p, r.message, limit)
	}
	if err != nil {
		r.free(items)
		return torch.Images{}, err
	}
	return torch.Images{Height: expected.height, Width: expected.width, Channels: expected.channels, Items: items}, nil
}

// maxShapes is how many shapes of results are remembered.
const maxShapes = 1024

// alloc takes memory for results, and makes it the request's outputs.
func (r *Runner) alloc(size shape, count int) [][]byte {
	q := &r.request
	q.outHeight, q.outWidth, q.outChannels = size.height, size.width, size.channels
	q.outputs = q.outputs[:0]
	if size == (shape{}) {
		return nil
	}
	items := make([][]byte, count)
	for i := range items {
		items[i] = r.config.Arena.Alloc(size.height * size.width * size.channels)
		offset, _ := r.config.Arena.offset(items[i])
		q.outputs = append(q.outputs, uint64(offset))
	}
	return items
}

func (r *Runner) free(items [][]byte) {
	for _, each := range items {
		r.config.Arena.Free(each)
	}
}

// live returns the child, when there is one. Where the next start is delayed, nobody waits for it.
func (r *Runner) live() (*process, error) {
	for {
		r.mu.Lock()
		p, ready, cause, closed, supervised := r.process, r.ready, r.cause, r.closed, r.supervision.WarmUp != nil
		delayed := delayBefore(r.ends) > 0
		r.mu.Unlock()
		switch {
		case p != nil:
			return p, nil
		case closed:
			return nil, errStopped
		case !supervised:
			return nil, cause
		case delayed:
			return nil, &RestartError{cause}
		}
		<-ready
	}
}

// ended notes how a batch went. After the end of a supervised child it starts another one.
func (r *Runner) ended(p *process, err error) {
	if err == nil {
		r.mu.Lock()
		r.ends = 0
		r.mu.Unlock()
		return
	}
	if p.alive() {
		return // an error of the model
	}
	p.end()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process != p {
		return
	}
	r.process, r.cause = nil, err
	if r.supervision.WarmUp == nil || r.closed {
		return
	}
	r.ready = make(chan struct{})
	r.ends++
	r.reportLocked(err)
	r.config.Log.Error().Err(err).Str("model_file", r.config.Model.Name).Int("ends", r.ends).Msg("a model's process ended; starting another one")
	r.restart.Go(r.replace)
}

// reportLocked reports a failure once.
func (r *Runner) reportLocked(err error) {
	if r.ends != reportedAfter {
		return
	}
	select {
	case r.failed <- fmt.Errorf("isolation: the model's process ended %d times without a good batch between them: %w", r.ends, err):
	default:
	}
}

// Supervise makes the runner replace its child whenever that ends.
func (r *Runner) Supervise(s Supervision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.supervision = s
	if r.process != nil {
		r.process.unwatch()
	}
}

// replace starts children until one is warmed up.
func (r *Runner) replace() {
	for {
		r.mu.Lock()
		delay := delayBefore(r.ends)
		r.mu.Unlock()
		select {
		case <-time.After(delay):
		case <-r.closing:
			return
		}
		start := time.Now()
		p, err := r.launch()
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			if p != nil {
				p.end()
			}
			return
		}
		if err == nil {
			r.process, r.cause = p, nil
			close(r.ready)
			r.mu.Unlock()
			r.config.Log.Info().Str("model_file", r.config.Model.Name).Dur("after_ms", time.Since(start)).Msg("the model's new process is ready")
			return
		}
		r.ends++
		r.cause = err
		close(r.ready) // for those who don't wait any more
		r.ready = make(chan struct{})
		r.reportLocked(err)
		ends := r.ends
		r.mu.Unlock()
		r.config.Log.Error().Err(err).Str("model_file", r.config.Model.Name).Int("ends", ends).Msg("the model's new process failed")
	}
}

// launch starts a child and warms it up.
func (r *Runner) launch() (*process, error) {
	if state, err := fileState(r.model); err != nil || state != r.state {
		return nil, errors.Join(fmt.Errorf("isolation: %s was written to after it was loaded", r.config.Model.Name), err)
	}
	limit := r.supervision.StartLimit
	late := &CrashError{Cause: fmt.Sprintf("killed, because its start took longer than %v", limit)}
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, late)
	defer cancel()
	go func() {
		select {
		case <-r.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	p, err := r.load(ctx, false)
	if err != nil {
		return nil, err
	}
	defer p.unwatch() // runs before cancel
	if err = r.bind(p); err == nil {
		err = r.supervision.WarmUp(func(batch torch.Images) error {
			out, err := r.run(p, batch, 0)
			r.free(out.Items)
			return err
		})
	}
	if err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// Healthy returns why there is no child at the moment; nil: there is one.
func (r *Runner) Healthy() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process != nil {
		return nil
	}
	return fmt.Errorf("isolation: the model's process is being replaced: %w", r.cause)
}

// Failed receives an error once, when the child has ended again and again without a good batch.
func (r *Runner) Failed() <-chan error { return r.failed }

// Close ends the child. Calls under way, and later ones, return an error.
func (r *Runner) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	p := r.process
	if p == nil {
		select {
		case <-r.ready:
		default:
			close(r.ready)
		}
	}
	close(r.closing)
	r.mu.Unlock()
	r.restart.Wait()
	if p != nil {
		p.end()
	}
	return r.model.Close()
}
