// Package servable holds a loaded model: it turns the bytes of an image into an encoded response.
//
// A Servable owns everything between the two: the pools of memory, decoding, batching, the model's instances and
// encoding. It knows no HTTP, no files and no versions.
package servable

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Config is what a Servable is made of.
type Config struct {
	Name     string // of the model; its share of the cores goes by this name
	Settings settings.Settings
	// Instances are the copies of the model, at least one. The Servable closes them.
	Instances []Instance
	Codec     *imagecodec.Codec
	Parts     []Part // what requests send beside the image, in the order of Settings.Inputs
	Threads   int    // that a forward may use on the CPU; 1 or more
	Shares    *cpu.Shares
	// Received and Decoding limit the bytes of the bodies and the memory of the decodes of all requests in the process.
	// nil: no limit.
	Received, Decoding *memory.Budget
	Trimmer            *memory.Trimmer // nil: none
	Metrics            *metrics.Model  // nil: none
	Log                zerolog.Logger
}

// A Servable is a loaded model that answers requests. Its methods are safe for concurrent use.
type Servable struct {
	config  Config
	batcher *batcher
	bodies  bodyPool
	// decoding is the mean duration of the recent decodes, the wait for a decoder included.
	decoding mean
	jobs     jobPool
	alloc    func(int) []byte // the codec's, so that it isn't bound anew for each batch
	// noErrors are the results of a batch whose jobs have all their outputs: nil, as many as a batch can have jobs.
	noErrors []error
	pure     atomic.Bool  // see SetPure
	scale    atomic.Int32 // of the model's output relative to its input; 0: not a whole number, or not known
	failed   chan error   // capacity 1
	closing  chan struct{}
	close    sync.Once
}

// shape is what must be equal for images to share a batch.
type shape struct {
	width, height int
	parts         string // of further inputs; empty: none
}

// A batch's items are jobs, and its results the jobs' own errors: nil if a job has its output.
type batcher = batch.Batcher[shape, *job, error]

// New starts the runners of the model, one for each instance. The caller must Close the Servable. On an error New closes
// the instances.
func New(c Config) (*Servable, error) {
	s := &Servable{config: c, alloc: c.Codec.Alloc, noErrors: make([]error, c.Settings.MaxBatchSize), failed: make(chan error, 1), closing: make(chan struct{})}
	var err error
	s.batcher, err = batch.New(batch.Config[shape, *job, error]{
		MaxBatchSize: c.Settings.MaxBatchSize,
		MaxQueueSize: c.Settings.MaxQueueSize,
		MaxWait:      c.Settings.MaxWait,
		FixedWait:    c.Settings.WaitPolicy == settings.Fixed,
		Runners:      len(c.Instances),
		Shape:        (*job).shape,
		Setup:        s.bindThread,
		Run:          s.start,
		Observe:      c.Metrics.Batch,
		Rest:         func(int) { torch.ReleaseThreads() },
	})
	if err != nil {
		return nil, errors.Join(err, CloseInstances(c.Instances))
	}
	for _, instance := range c.Instances {
		if failed := instance.Failed(); failed != nil {
			go s.watch(failed)
		}
	}
	return s, nil
}

// SetPure says whether an image's result depends on the image alone. After the end of an instance's process, its images
// are then run again. A new Servable isn't pure.
func (s *Servable) SetPure(pure bool) { s.pure.Store(pure) }

// watch passes an instance's failure on.
func (s *Servable) watch(failed <-chan error) {
	select {
	case err := <-failed:
		select {
		case s.failed <- err:
		default: // another instance has failed before
		}
	case <-s.closing:
	}
}

// Failed receives an error when an instance keeps failing, which another version may not.
func (s *Servable) Failed() <-chan error { return s.failed }

// Watch makes the servable notice a batch that takes longer than limit returns for its pixels; see batch.Batcher.Watch. It
// must be called at most once, before the first request.
func (s *Servable) Watch(limit func(pixels int) time.Duration) {
	s.batcher.Watch(func(jobs []*job) time.Duration {
		return limit(len(jobs) * jobs[0].input.Width * jobs[0].input.Height)
	})
}

// Healthy returns nil, or why no forward makes progress: a *batch.HungError if none ever will, or else why no instance can
// run batches at the moment.
func (s *Servable) Healthy() error {
	errs := []error{s.batcher.Healthy()}
	if errs[0] != nil {
		return errs[0]
	}
	for _, instance := range s.config.Instances {
		err := instance.Healthy()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bindThread prepares a runner's thread for its instance.
func (s *Servable) bindThread(instance int) error {
	return s.config.Instances[instance].Bind(s.config.Shares, s.config.Name, s.config.Threads)
}

// start begins a batch on an instance. The returned function waits for the results.
func (s *Servable) start(instance int, jobs []*job) (func() ([]error, error), error) {
	in := torch.Images{Items: make([][]byte, 0, len(jobs))}
	for _, j := range jobs {
		if j.held = j.hold(); j.held {
			in.Width, in.Height, in.Channels = j.input.Width, j.input.Height, j.input.Channels
			in.Items = append(in.Items, j.input.Pixels)
			j.parts.appendTo(&in)
		}
	}
	if len(in.Items) == 0 {
		return func() ([]error, error) { return s.noErrors[:len(jobs)], nil }, nil // for which nobody waits
	}
	answer, err := s.startImages(instance, in)
	if err != nil {
		defer s.drop(jobs)
		if errs := s.afterCrash(instance, jobs, err); errs != nil {
			return func() ([]error, error) { return errs, nil }, nil
		}
		return nil, err
	}
	return func() ([]error, error) {
		defer s.drop(jobs)
		out, err := answer.Read(s.alloc)
		if err != nil {
			return nil, err
		}
		next := 0
		for _, j := range jobs {
			if j.held {
				j.output = imagecodec.Image{Width: out.Width, Height: out.Height, Channels: out.Channels, Pixels: out.Items[next]}
				next++
			}
		}
		return s.noErrors[:len(jobs)], nil
	}, nil
}

// drop drops the jobs that the batch holds.
func (s *Servable) drop(jobs []*job) {
	for _, j := range jobs {
		if j.held {
			j.drop(s.config.Codec)
		}
	}
}

// afterCrash returns the errors of the jobs of a batch that failed by err, if the instance's process ended or wasn't there,
// or else nil. If the model is pure, each job of a process that ended runs once more, alone: so a job that ends the process
// again is told from those that were only in the same batch.
func (s *Servable) afterCrash(instance int, jobs []*job, err error) []error {
	var (
		crash   *isolation.CrashError
		restart *isolation.RestartError
	)
	ran := errors.As(err, &crash)
	if !ran && !errors.As(err, &restart) {
		return nil
	}
	errs := make([]error, len(jobs))
	for i, j := range jobs {
		if !j.held {
			continue
		}
		if errs[i] = (&CrashError{Cause: err}); ran && s.pure.Load() && !j.givenUp() {
			errs[i] = s.runAlone(instance, j)
		}
	}
	return errs
}

func (s *Servable) runAlone(instance int, j *job) error {
	in := Stack([]imagecodec.Image{j.input})
	j.parts.appendTo(&in)
	out, err := s.run(instance, in)
	var (
		again   *isolation.CrashError
		restart *isolation.RestartError
	)
	switch {
	case errors.As(err, &again):
		return &CrashError{Cause: again, OfImage: true}
	case errors.As(err, &restart):
		return &CrashError{Cause: restart}
	case err != nil:
		return &ModelError{err}
	}
	j.output = out[0]
	return nil
}

// startImages begins a batch of images on an instance.
func (s *Servable) startImages(instance int, in torch.Images) (isolation.Answer, error) {
	s.config.Log.Debug().Str("model", s.config.Name).Int("batch", len(in.Items)).Int("width", in.Width).Int("height", in.Height).Msg("forward")
	return s.config.Instances[instance].Start(in)
}

// Stack returns images of one size as a batch for a module. It copies no pixels.
func Stack(items []imagecodec.Image) torch.Images {
	in := torch.Images{Width: items[0].Width, Height: items[0].Height, Channels: items[0].Channels, Items: make([][]byte, len(items))}
	for i, item := range items {
		in.Items[i] = item.Pixels
	}
	return in
}

// Run takes one batch of images of equal size through an instance, outside the queue, and returns the results in order.
// The caller may recycle them. Run must be called on the instance's runner thread: within OnEachRunner. It fails for a model
// whose outputs can't be joined, if the settings have tiles.
func (s *Servable) Run(instance int, items []imagecodec.Image) ([]imagecodec.Image, error) {
	results, err := s.run(instance, Stack(items))
	if err != nil {
		return nil, err
	}
	return results, s.learnScale(items[0], results[0])
}

func (s *Servable) run(instance int, in torch.Images) ([]imagecodec.Image, error) {
	answer, err := s.startImages(instance, in)
	if err != nil {
		return nil, err
	}
	out, err := answer.Read(s.alloc)
	if err != nil {
		return nil, err
	}
	results := make([]imagecodec.Image, len(out.Items))
	for i, pixels := range out.Items {
		results[i] = imagecodec.Image{Width: out.Width, Height: out.Height, Channels: out.Channels, Pixels: pixels}
	}
	return results, nil
}

// OnEachRunner calls f once on the thread of each instance's runner, one after the other, while that runner runs no
// batch. It returns the first error.
func (s *Servable) OnEachRunner(f func(instance int) error) error { return s.batcher.OnEachRunner(f) }

// Options are the parameters of one request.
type Options struct {
	// Length is the size of the body in bytes as the client announced it; -1: unknown. It only sizes the buffer.
	Length int64
	Format settings.Format      // of the response
	Size   *settings.AnswerSize // of the response; nil: that of the settings
	Record *Recording           // of a request that succeeds; nil: none
	// Quality is that of a JPEG or AVIF, 1 to 100; 0: the model's setting.
	Quality int
}

// answerSize returns the size of the response.
func (s *Servable) answerSize(o *Options) settings.AnswerSize {
	if o.Size != nil {
		return *o.Size
	}
	return s.config.Settings.AnswerSize
}

// A Response is an encoded image, or, beside an error, only the stages that were reached.
type Response struct {
	Body   []byte // valid until Release
	Stages Stages

	codec *imagecodec.Codec
}

// Release returns the memory of the body. The caller must call it once, and not use Body afterwards.
func (r *Response) Release() {
	if r.codec != nil {
		r.codec.Recycle(r.Body)
	}
}

// Stages are how long the stages of a request took, and what it was part of. Stages that weren't reached are 0.
//
// An image that goes through the model in tiles does so in groups, one after the other. Its Queue and Forward are sums over
// the groups, of the longest of a group's tiles. Its BatchSize is that of its first tile.
type Stages struct {
	Receive, Decode, Queue, Forward, Encode time.Duration

	Received  int // bytes of the body
	BatchSize int // images in the batch
}

// A ModelError is a failure of the model on a batch: an error of its forward, or a *batch.PanicError.
//
// It deliberately doesn't unwrap. What it was caused by belongs to the model, so a context error inside it, say, is not
// the request's.
type ModelError struct{ Cause error }

func (e *ModelError) Error() string { return "the model failed on a batch: " + e.Cause.Error() }

// A CrashError is the end of the model's process during a batch, or that no process was there for it. It doesn't unwrap, for
// ModelError's reason.
type CrashError struct {
	Cause error
	// OfImage says that the image ended the process twice, the second time alone, so another try would too.
	OfImage bool
}

func (e *CrashError) Error() string { return "the model ended during a batch: " + e.Cause.Error() }

// Process reads an image's bytes from body and returns the model's encoded response. On its way the request passes through
// the admission of package servable (see admission.go).
//
// Errors: those of body's Read, as they are; *imagecodec.Error for bytes that aren't a usable image; *PartError; *batch.BusyError;
// batch.ErrClosed; *batch.HungError; ErrReceiving; *memory.TooLargeError for an image that could never be decoded; the cause
// of ctx; *ModelError; *CrashError; and else a failure of the encoder. On an error the Response has the stages that were
// reached.
func (s *Servable) Process(ctx context.Context, body io.Reader, o Options) (Response, error) {
	var r Response
	a := admission{servable: s, ctx: ctx, stages: &r.Stages}
	defer a.end()
	input, further, err := a.admit(body, o)
	if err != nil {
		return r, err
	}
	codec := s.config.Codec
	j := s.jobs.get(input, further)
	if a.tiling != nil {
		err = a.runTiles(j)
	} else {
		err = a.run(j)
	}
	if err != nil {
		j.drop(codec)
		if run := (*batch.RunError)(nil); errors.As(err, &run) {
			err = &ModelError{run.Err}
		}
		return r, err
	}

	start := time.Now()
	result, err := a.finish(j, s.answerSize(&o))
	j.recycleInput(codec) // the batch has dropped the job
	if err == nil {
		result, err = codec.WithAlpha(ctx, result, input, o.Format)
	}
	var encoded []byte
	if err == nil {
		o.Record.finish(result, &o)
		encoded, err = codec.Encode(ctx, result, imagecodec.Encoding{Format: o.Format, Quality: o.Quality, Metadata: a.metadata})
	}
	r.Stages.Encode = time.Since(start)
	codec.Recycle(result.Pixels)
	s.jobs.put(j)
	if err != nil {
		return r, err
	}
	r.Body, r.codec = encoded, codec
	return r, nil
}

// run takes an image through the model.
func (a *admission) run(j *job) error {
	reply, err := a.arrival.Submit(a.ctx, j)
	if err == nil {
		err = reply.Result
	}
	if err != nil {
		return err
	}
	a.stages.Queue, a.stages.Forward, a.stages.BatchSize = reply.Queue, reply.Run, reply.BatchSize
	return nil
}

// finish makes the result of the model's output: cropped to the image, joined with it, and brought to the size of the
// response. The output is taken over. The caller may recycle the result.
func (a *admission) finish(j *job, size settings.AnswerSize) (imagecodec.Image, error) {
	codec := a.servable.config.Codec
	result := j.output
	answer := imagecodec.Answer{Size: size, Scale: imagecodec.ScaleOf(
		settings.Size{Width: a.frame.Width, Height: a.frame.Height}, settings.Size{Width: result.Width, Height: result.Height})}
	a.frame.CutOutput(&result)
	if codec.Joins() {
		input := j.input
		a.frame.CutOutput(&input)
		joined, err := codec.Join(a.ctx, imagecodec.Parts{Output: result, Input: input, Sent: a.sent})
		codec.Recycle(result.Pixels)
		if err != nil {
			return imagecodec.Image{}, err
		}
		result = joined
	}
	if size == (settings.AnswerSize{}) {
		return result, nil
	}
	wanted := codec.ResultSize(&a.frame, answer)
	if wanted == (settings.Size{Width: result.Width, Height: result.Height}) {
		return result, nil
	}
	resized, err := codec.ResizeResult(a.ctx, result, wanted)
	codec.Recycle(result.Pixels)
	return resized, err
}

// Waiting is the number of images that have a place in the queue.
func (s *Servable) Waiting() int { return s.batcher.Waiting() }

// DefaultFormat is the default response format.
func (s *Servable) DefaultFormat() settings.Format { return s.config.Settings.ResponseFormat() }

// Info describes a model.
type Info struct {
	torch.Info
	Settings  settings.Settings // that it is served with
	Devices   string            // the devices of the instances, each once, separated by commas
	Instances int               // on all devices together
	Threads   int               // that one forward may use on the CPU
}

// Info describes the model.
func (s *Servable) Info() Info {
	var devices []string
	seen := map[torch.Device]bool{}
	for _, instance := range s.config.Instances {
		if device := instance.Info().Device; !seen[device] {
			seen[device] = true
			devices = append(devices, device.String())
		}
	}
	return Info{
		Info: s.config.Instances[0].Info(), Settings: s.config.Settings,
		Devices: strings.Join(devices, ","), Instances: len(s.config.Instances), Threads: s.config.Threads,
	}
}

// StopWaiting launches incomplete batches at once from now on; see batch.Batcher.StopWaiting.
func (s *Servable) StopWaiting() { s.batcher.StopWaiting() }

// Close answers the accepted requests, closes the instances and returns their memory to the system. If a batch hangs, the
// instances stay in use: Close leaves them open and returns a *batch.HungError. It may be called again.
func (s *Servable) Close() error {
	s.batcher.Close()
	s.close.Do(func() { close(s.closing) })
	if err := s.batcher.Healthy(); err != nil {
		return err
	}
	err := CloseInstances(s.config.Instances)
	torch.ReleaseMemory()
	return err
}
