package loader

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// A preparation is the state of one call of Load, and ends with it.
type preparation struct {
	ctx      context.Context //nolint:containedctx // lives as long as the call
	loader   *Loader
	request  Request
	file     modelFile
	cfg      settings.Settings
	place    place
	devices  []torch.Device
	arena    *isolation.Arena // nil in this process
	codec    *imagecodec.Codec
	parts    []servable.Part // what requests send beside the image
	throttle cpu.Throttle

	copies   []servable.Instance
	runners  []*isolation.Runner // the same, in child processes; else none
	doing    string              // what the model is doing
	threads  int                 // that a forward may use; 0: not chosen yet
	checked  bool                // the findings are complete
	findings Findings
	warmUp   WarmUp
	timings  []Timing
}

// newPreparation returns the preparation of a file with settings. tried has what a trial found out; nil: there was none.
func newPreparation(ctx context.Context, l *Loader, r Request, file modelFile, cfg settings.Settings, where place, tried *Description) (*preparation, error) {
	p := &preparation{ctx: ctx, loader: l, request: r, file: file, cfg: cfg, place: where, threads: cfg.Threads}
	if tried != nil && tried.WarmUp.Err == nil {
		p.findings, p.checked, p.warmUp.Slowest = tried.Findings, true, tried.WarmUp.Slowest
		p.cfg.MaxBatchSize = tried.Settings.MaxBatchSize
	}
	var err error
	if p.devices, err = devices(cfg.Device); err != nil {
		return nil, err
	}
	if p.checked && p.instances() == 1 { // as in the trial
		p.threads = tried.Threads
	}
	if err := l.checkMemory(file.Size(), p.instances()); err != nil {
		return nil, err
	}
	var pixels imagecodec.Memory
	if where != inServer {
		if p.arena, err = isolation.NewArena(); err != nil {
			return nil, err
		}
		pixels = p.arena
	}
	if p.codec, err = l.newCodec(&cfg, imagecodec.LetterboxGrey, pixels); err == nil {
		err = p.newParts(pixels)
	}
	if err != nil {
		return nil, errors.Join(err, p.closeArena())
	}
	if r.Background {
		p.throttle = cpu.Throttle{Cores: l.shared.Cores, Clock: p.clock()}
	}
	return p, nil
}

func (p *preparation) instances() int { return p.cfg.Instances * len(p.devices) }

func (p *preparation) device(instance int) torch.Device { return p.devices[instance%len(p.devices)] }

// run loads the model and makes it servable.
//
// Most of the work belongs to a module and can be done on any thread: the file is read, and TorchScript compiles. Beside
// versions that serve it is done on a thread in the background. What LibTorch caches for each thread is left to the
// runners' own threads, in a second and shorter step.
func (p *preparation) run() (*Loaded, error) {
	loaded, err := p.load()
	if err != nil {
		return nil, errors.Join(p.explainCrash(err), p.closeArena())
	}
	return loaded, nil
}

func (p *preparation) closeArena() error {
	if p.arena == nil {
		return nil
	}
	return p.arena.Close()
}

func (p *preparation) load() (*Loaded, error) {
	start := time.Now()
	if err := p.onLoadThread(p.loadInstances); err != nil {
		return nil, errors.Join(err, servable.CloseInstances(p.copies))
	}
	l := p.loader
	s, err := servable.New(servable.Config{
		Name: l.source.Name(), Settings: p.cfg, Instances: p.copies, Codec: p.codec, Parts: p.parts, Threads: p.threads,
		Shares: l.shared.Shares, Received: l.shared.Received, Decoding: l.shared.Decoding, Trimmer: l.shared.Trimmer,
		Metrics: l.shared.Metrics.Model(l.source.Name()), Log: l.shared.Log,
	})
	if err != nil {
		return nil, err
	}
	err = p.warmUpRunners(s)
	p.warmUp.Duration = time.Since(start)
	if err == nil {
		err = p.timeForwards(s)
	}
	if err == nil && p.place == inRunner {
		s.SetPure(p.findings.Pure)
		p.supervise()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if p.place == inServer {
		s.Watch(forwardLimit(l.shared.ForwardTimeout, p.warmUp.Slowest))
	}
	return &Loaded{s, Description{Info: s.Info(), Findings: p.findings, WarmUp: p.warmUp, Timings: p.timings}, p.arena}, nil
}

// onLoadThread calls f on a thread of its own, which ends with it, in the background if the request says so. The thread
// keeps neither LibTorch's caches nor its number of threads.
func (p *preparation) onLoadThread(f func() error) error {
	if p.place != inServer { // which has such a thread
		return f()
	}
	if p.request.Background {
		return cpu.InBackground(f)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

// step does a piece of the load, after which a load in the background waits until others had their time.
func (p *preparation) step(work func() error) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	return p.throttle.Do(work)
}

// loadInstances loads and checks each instance and runs it until TorchScript has compiled it, all on one thread. It also
// chooses how many threads a forward may use.
func (p *preparation) loadInstances() error {
	if p.place == inServer {
		if err := torch.SetNumThreads(1); err != nil {
			return err
		}
	}
	for instance := range p.instances() {
		if err := p.loadInstance(instance); err != nil {
			return err
		}
	}
	return nil
}

// loadInstance loads an instance and checks it at each size.
func (p *preparation) loadInstance(instance int) error {
	err := p.step(func() error {
		copied, err := p.newInstance(instance, p.cfg.Precision)
		if err != nil {
			return err
		}
		p.copies = append(p.copies, copied)
		// Weights can take more memory than in the file: those of float16 are computed with in float32.
		return p.loader.checkMemory(copied.Info().Bytes, p.instances())
	})
	if err != nil {
		return err
	}
	if instance == 0 && p.request.Warming != nil {
		p.request.Warming()
	}
	err = p.eachSize(func(width, height int) error { return p.checkAt(instance, width, height) })
	err = p.withHint(instance, err)
	if sizes, guessed := p.cfg.WarmUpSizes(); guessed && errors.As(err, new(sizeError)) {
		p.warmUp.Err, p.threads = err, max(1, p.threads)
		err = p.leaveUnchecked(sizes[0])
	}
	return err
}

// newInstance reads the file for an instance, which computes in a precision.
func (p *preparation) newInstance(instance int, precision torch.Precision) (servable.Instance, error) {
	copied, err := p.startInstance(torch.Options{
		Device: p.device(instance), Precision: precision, CUDAGraphs: p.graphs(),
		PackageFolder: p.loader.shared.PackageFolder, Values: p.cfg.TensorValues(), Inputs: p.cfg.Inputs.Tensors(),
	})
	if err == nil && len(p.parts) > 0 {
		copied = withTestParts{copied, p.parts}
	}
	return copied, err
}

// startInstance reads the file.
func (p *preparation) startInstance(options torch.Options) (servable.Instance, error) {
	p.doing = "loading its file"
	if p.place != inServer {
		r, err := p.startRunner(options)
		if err != nil {
			return nil, err // not a nil *isolation.Runner in the interface
		}
		return r, nil
	}
	module, err := p.file.Load(options)
	if err != nil {
		return nil, err
	}
	return servable.InProcess(module), nil
}

// A sizeError is the failure of a model with a single image, perhaps because of the image's size.
type sizeError struct{ error }

func (e sizeError) Unwrap() error { return e.error }

// checkAt checks an instance on images of one size, and runs it until it runs at full speed. The first instance's checks at
// the first size hold for all.
func (p *preparation) checkAt(instance, width, height int) error {
	p.doing = describeBatch(1, width, height)
	err := p.step(func() error {
		return p.copies[instance].CheckFinite(servable.Stack(testImages(1, width, height)))
	})
	if err != nil {
		err = explainWarmUp(1, width, height, err)
		if errors.Is(err, torch.ErrForward) {
			return sizeError{err}
		}
		return err
	}
	// On the CPU the checks run as batches will, on several threads if the model is worth it: with the largest batch they take
	// most of a load's time. On CUDA they are the runs that a shape needs.
	first := !p.checked
	p.checked = true
	if !first || p.device(instance) == torch.CPU {
		if err := p.compile(instance, width, height); err != nil {
			return err
		}
	}
	if err := p.spread(instance, width, height); err != nil || !first {
		return err
	}
	return p.checkBatches(width, height)
}

// spread chooses the number of threads, if that hasn't been done, and has the instance use them for the rest of the load,
// unless that is in the background: two forwards that are spread over the same cores wait for each other's threads.
func (p *preparation) spread(instance, width, height int) error {
	if p.threads == 0 {
		err := p.step(func() error { return p.chooseThreads(instance, testImages(1, width, height)) })
		if err != nil {
			return err
		}
	}
	if p.request.Background || p.device(instance) != torch.CPU {
		return nil
	}
	return p.copies[instance].SetThreads(p.threads)
}

// compile runs an instance that has been checked until it runs at full speed. TorchScript profiles its first run and
// compiles during the second. On the CPU that serves all shapes, so the check is the first run and this the second. On CUDA
// each shape needs both runs, and the third one captures a CUDA graph.
func (p *preparation) compile(instance, width, height int) error {
	run := func(items []imagecodec.Image) error { return p.forward(instance, items) }
	if p.device(instance) == torch.CPU {
		return p.runBatch(run, 1, width, height)
	}
	return p.eachBatch(run, p.batchSizes(instance), width, height, runsOnCUDA)
}

// batchSizes returns the sizes of batches that an instance is warmed up with, the largest first, so that memory is taken at
// once. On the CPU one image does all: after it, the full CycleGAN took as long for its first batch of 16 as for the second.
func (p *preparation) batchSizes(instance int) []int {
	largest := p.cfg.MaxBatchSize
	if p.device(instance) == torch.CPU && !p.cfg.WarmUp.AllBatches {
		return []int{1}
	}
	sizes := make([]int, largest)
	for i := range sizes {
		sizes[i] = largest - i
	}
	return sizes
}

// runsOnCUDA is how often a shape must run on CUDA until it runs at full speed.
const runsOnCUDA = 3

// forward runs a batch on an instance, outside of any runner.
func (p *preparation) forward(instance int, items []imagecodec.Image) error {
	answer, err := p.copies[instance].Start(servable.Stack(items))
	if err != nil {
		return err
	}
	out, err := answer.Read(p.codec.Alloc)
	for _, pixels := range out.Items {
		p.codec.Recycle(pixels)
	}
	return err
}

// chooseThreads decides by how long an image takes on one thread, which is the calling thread's setting.
func (p *preparation) chooseThreads(instance int, items []imagecodec.Image) error {
	if p.threads = 1; p.device(instance) != torch.CPU {
		return nil
	}
	clock := p.clock()
	if clock == nil {
		clock = cpu.ThreadTime
	}
	threads, err := cpu.ChooseThreads(p.loader.shared.Cores, p.instances(), clock, func() error { return p.forward(instance, items) })
	if err != nil {
		return explainWarmUp(len(items), items[0].Width, items[0].Height, err)
	}
	p.threads = threads
	return nil
}

// warmUpRunners runs the batch sizes on each runner's thread. In the background that takes one thread, for the reason of
// spread. A trial has run what it had to.
func (p *preparation) warmUpRunners(s *servable.Servable) error {
	if !p.sizeWorks() || p.place == inTrial {
		return nil
	}
	return s.OnEachRunner(func(instance int) error {
		if p.request.Background {
			if err := p.copies[instance].SetThreads(1); err != nil {
				return err
			}
		}
		err := p.eachSize(func(width, height int) error {
			return p.eachBatch(p.runnerOf(s, instance), p.batchSizes(instance), width, height, 1)
		})
		return errors.Join(err, p.copies[instance].SetThreads(p.threads))
	})
}

// runnerOf returns a function that runs a batch on an instance and records the slowest; for use within OnEachRunner.
func (p *preparation) runnerOf(s *servable.Servable, instance int) func([]imagecodec.Image) error {
	return func(items []imagecodec.Image) error {
		start := time.Now()
		results, err := s.Run(instance, items)
		if err == nil {
			p.took(time.Since(start), items)
		}
		p.recycle(results)
		return err
	}
}

// took records how long a batch took, if it is the slowest.
func (p *preparation) took(duration time.Duration, items []imagecodec.Image) {
	if duration > p.warmUp.Slowest.Duration {
		p.warmUp.Slowest = SlowestBatch{duration, len(items) * items[0].Width * items[0].Height}
	}
}

// These are the automatic time limit of a batch.
const (
	limitFactor  = 20
	leastTimeout = 30 * time.Second
)

// forwardLimit returns how long a batch of so many pixels may take. An automatic limit grows with images that are larger
// than those of the warm-up, which a model without a fixed size accepts.
func forwardLimit(fixed time.Duration, slowest SlowestBatch) func(pixels int) time.Duration {
	return func(pixels int) time.Duration {
		if fixed > 0 {
			return fixed
		}
		limit := max(leastTimeout, limitFactor*slowest.Duration)
		if slowest.Pixels > 0 && pixels > slowest.Pixels {
			limit = time.Duration(float64(limit) * float64(pixels) / float64(slowest.Pixels))
		}
		return limit
	}
}

func (p *preparation) recycle(images []imagecodec.Image) {
	for _, each := range images {
		p.codec.Recycle(each.Pixels)
	}
}

// sizeWorks reports whether the model accepts images of the size that was guessed, if it was.
func (p *preparation) sizeWorks() bool { return p.warmUp.Err == nil }

// eachSize calls do for each size that images are known to have.
func (p *preparation) eachSize(do func(width, height int) error) error {
	sizes, _ := p.cfg.WarmUpSizes()
	for _, size := range sizes {
		if err := do(p.codec.Target(size.Width, size.Height)); err != nil {
			return err
		}
	}
	return nil
}

// eachBatch runs batches of each of the sizes the given number of times.
func (p *preparation) eachBatch(run func([]imagecodec.Image) error, sizes []int, width, height, times int) error {
	for _, size := range sizes {
		for range times {
			if err := p.runBatch(run, size, width, height); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *preparation) runBatch(run func([]imagecodec.Image) error, size, width, height int) error {
	p.doing = describeBatch(size, width, height)
	err := p.step(func() error { return run(testImages(size, width, height)) })
	if err != nil && p.ctx.Err() == nil {
		return explainWarmUp(size, width, height, err)
	}
	return err
}

// A Timing is how long batches of one size take on the first instance, from pixels to pixels.
type Timing struct {
	BatchSize     int
	Input, Output imagecodec.Image // without pixels
	Duration      time.Duration    // the median of Shared.TimedRuns
}

// timeForwards measures each batch size on the first runner.
func (p *preparation) timeForwards(s *servable.Servable) error {
	if p.loader.shared.TimedRuns == 0 || !p.sizeWorks() || p.place == inTrial {
		return nil
	}
	return s.OnEachRunner(func(instance int) error {
		if instance > 0 {
			return nil
		}
		return p.eachSize(func(width, height int) error {
			for size := 1; size <= p.cfg.MaxBatchSize; size++ {
				timing, err := p.timeBatch(s, testImages(size, width, height))
				if err != nil {
					return explainWarmUp(size, width, height, err)
				}
				p.timings = append(p.timings, timing)
			}
			return nil
		})
	})
}

func (p *preparation) timeBatch(s *servable.Servable, items []imagecodec.Image) (Timing, error) {
	t := Timing{BatchSize: len(items), Input: items[0]}
	durations := make([]time.Duration, p.loader.shared.TimedRuns)
	for i := range durations {
		start := time.Now()
		results, err := s.Run(0, items)
		if err != nil {
			return Timing{}, err
		}
		durations[i], t.Output = time.Since(start), results[0]
		p.recycle(results)
	}
	slices.Sort(durations)
	t.Duration = durations[len(durations)/2]
	t.Input.Pixels, t.Output.Pixels = nil, nil
	return t, nil
}

func explainWarmUp(count, width, height int, err error) error {
	if crash := (*isolation.CrashError)(nil); errors.As(err, &crash) {
		return err // explainCrash has the place
	}
	return fmt.Errorf("loader: the model fails with %s of %dx%d: %w", countOf(count), width, height, err)
}

// testImages returns different images.
func testImages(count, width, height int) []imagecodec.Image {
	items := make([]imagecodec.Image, count)
	for i := range items {
		items[i] = testImage(i, width, height)
	}
	return items
}

// testImage returns one of three soft patterns in colour, nothing unusual for a model of photographs. They differ in each
// value, in mean, contrast and range, so that a model that computes any of these over a batch shows it.
func testImage(number, width, height int) imagecodec.Image {
	img := imagecodec.Image{Width: width, Height: height, Channels: 3, Pixels: make([]byte, width*height*3)}
	pattern := [differentImages]struct{ least, span, step int }{{64, 128, 1}, {4, 151, 5}, {180, 41, 7}}[number%differentImages]
	for i := range img.Pixels {
		img.Pixels[i] = byte(pattern.least + i*pattern.step%pattern.span)
	}
	return img
}
