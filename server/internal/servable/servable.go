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
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// Config is what a Servable is made of.
type Config struct {
	Name     string // of the model; its share of the cores goes by this name
	Settings settings.Settings
	// Modules are the instances of the model, at least one. The Servable closes them.
	Modules []*torch.Module
	Codec   *imagecodec.Codec
	Threads int // that a forward may use on the CPU; 1 or more
	Shares  *cpu.Shares
	// Received and Decoding limit the bytes of the bodies and the memory of the decodes of all requests in the process.
	// nil: no limit.
	Received, Decoding *memory.Budget
	Trimmer            *memory.Trimmer // nil: none
	Log                zerolog.Logger
}

// A Servable is a loaded model that answers requests. Its methods are safe for concurrent use.
type Servable struct {
	config  Config
	batcher *batcher
	bodies  bodyPool
	// decoding is the mean duration of the recent decodes, the wait for a decoder included.
	decoding mean
}

// shape is what must be equal for images to share a batch.
type shape struct{ width, height int }

type batcher = batch.Batcher[shape, imagecodec.Image, imagecodec.Image]

// New starts the runners of the model, one for each module. The caller must Close the Servable. On an error New closes
// the modules.
func New(c Config) (*Servable, error) {
	s := &Servable{config: c}
	var err error
	s.batcher, err = batch.New(batch.Config[shape, imagecodec.Image, imagecodec.Image]{
		MaxBatchSize: c.Settings.MaxBatchSize,
		MaxQueueSize: c.Settings.MaxQueueSize,
		MaxWait:      c.Settings.MaxWait,
		FixedWait:    c.Settings.WaitPolicy == settings.Fixed,
		Runners:      len(c.Modules),
		Shape:        func(i imagecodec.Image) shape { return shape{i.Width, i.Height} },
		Setup:        s.bindThread,
		Run:          s.start,
	})
	if err != nil {
		return nil, errors.Join(err, CloseModules(c.Modules))
	}
	return s, nil
}

// bindThread gives a runner's thread the model's share of the cores and its number of threads for a forward.
func (s *Servable) bindThread(int) error {
	if err := s.config.Shares.Enter(s.config.Name); err != nil {
		return err
	}
	return torch.SetNumThreads(s.config.Threads)
}

// start begins a batch on an instance. The returned function waits for the results.
func (s *Servable) start(instance int, items []imagecodec.Image) (func() ([]imagecodec.Image, error), error) {
	in := Stack(items)
	s.config.Log.Debug().Int("batch", len(items)).Int("width", in.Width).Int("height", in.Height).Msg("forward")
	answer, err := s.config.Modules[instance].ForwardImages(in)
	if err != nil {
		return nil, err
	}
	return func() ([]imagecodec.Image, error) { return s.read(answer) }, nil
}

func (s *Servable) read(answer *torch.Answer) ([]imagecodec.Image, error) {
	out, err := answer.Read(s.config.Codec.Alloc)
	if err != nil {
		return nil, err
	}
	results := make([]imagecodec.Image, len(out.Items))
	for i, pixels := range out.Items {
		results[i] = imagecodec.Image{Width: out.Width, Height: out.Height, Channels: out.Channels, Pixels: pixels}
	}
	return results, nil
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
// It must be called on the instance's runner thread: within OnEachRunner.
func (s *Servable) Run(instance int, items []imagecodec.Image) ([]imagecodec.Image, error) {
	finish, err := s.start(instance, items)
	if err != nil {
		return nil, err
	}
	return finish()
}

// OnEachRunner calls f once on the thread of each instance's runner, one after the other, while that runner runs no
// batch. It returns the first error.
func (s *Servable) OnEachRunner(f func(instance int) error) error { return s.batcher.OnEachRunner(f) }

// Options are the parameters of one request.
type Options struct {
	// Length is the size of the body in bytes as the client announced it; -1: unknown. It only sizes the buffer.
	Length int64
	Format settings.Format // of the response
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

// Process reads an image's bytes from body and returns the model's encoded response. On its way the request passes through
// the admission of package servable (see admission.go).
//
// Errors: those of body's Read, as they are; *imagecodec.Error for bytes that aren't a usable image; *batch.BusyError;
// batch.ErrClosed; *batch.HungError; ErrReceiving; *memory.TooLargeError for an image that could never be decoded; the cause
// of ctx; *ModelError; and else a failure of the encoder. On an error the Response has the stages that were reached.
func (s *Servable) Process(ctx context.Context, body io.Reader, o Options) (Response, error) {
	var r Response
	a := admission{servable: s, ctx: ctx, stages: &r.Stages}
	defer a.end()
	input, err := a.admit(body, o)
	if err != nil {
		return r, err
	}
	reply, err := a.arrival.Submit(ctx, input)
	if err != nil {
		// The image may still be in a running batch, so its memory isn't recycled.
		if run := (*batch.RunError)(nil); errors.As(err, &run) {
			err = &ModelError{run.Err}
		}
		return r, err
	}
	codec := s.config.Codec
	codec.Recycle(input.Pixels)
	r.Stages.Queue, r.Stages.Forward, r.Stages.BatchSize = reply.Queue, reply.Run, reply.BatchSize

	start := time.Now()
	encoded, err := codec.Encode(ctx, reply.Result, o.Format)
	r.Stages.Encode = time.Since(start)
	if err != nil {
		return r, err
	}
	codec.Recycle(reply.Result.Pixels)
	r.Body, r.codec = encoded, codec
	return r, nil
}

// DefaultFormat is the default response format.
func (s *Servable) DefaultFormat() settings.Format { return s.config.Settings.Format }

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
	for _, module := range s.config.Modules {
		if device := module.Info().Device; !seen[device] {
			seen[device] = true
			devices = append(devices, device.String())
		}
	}
	return Info{
		Info: s.config.Modules[0].Info(), Settings: s.config.Settings,
		Devices: strings.Join(devices, ","), Instances: len(s.config.Modules), Threads: s.config.Threads,
	}
}

// Watch makes the servable notice a batch that takes longer than limit returns for its images, which have one size; see
// batch.Batcher.Watch. It must be called at most once, before the first request.
func (s *Servable) Watch(limit func(items []imagecodec.Image) time.Duration) { s.batcher.Watch(limit) }

// Healthy returns nil, or why no forward makes progress; with a *batch.HungError none ever will.
func (s *Servable) Healthy() error { return s.batcher.Healthy() }

// Failed returns nil: a model in this process doesn't fail without its process.
func (s *Servable) Failed() <-chan error { return nil }

// StopWaiting launches incomplete batches at once from now on; see batch.Batcher.StopWaiting.
func (s *Servable) StopWaiting() { s.batcher.StopWaiting() }

// Close answers the accepted requests, closes the modules and returns their memory to the system. If a batch hangs, the
// modules stay in use: Close leaves them open and returns a *batch.HungError.
func (s *Servable) Close() error {
	s.batcher.Close()
	if err := s.Healthy(); err != nil {
		return err
	}
	err := CloseModules(s.config.Modules)
	torch.ReleaseMemory()
	return err
}

// CloseModules closes all modules and joins their errors.
func CloseModules(modules []*torch.Module) error {
	var errs []error
	for _, module := range modules {
		errs = append(errs, module.Close())
	}
	return errors.Join(errs...)
}
