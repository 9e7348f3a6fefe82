// Package model is what is being served: a module on a device, the batcher in front of it, and the thread that it
// runs on.
package model

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/picture"
	"github.com/torchherd/torchherd/torch"
)

// Config says what to serve and how.
type Config struct {
	// Path is the model's file; Content its bytes, used when Path is empty.
	Path    string
	Content []byte
	Options torch.Options

	// Instances is how many copies of the model run batches side by side, each on a thread of its own; 1 or more.
	Instances int
	// Threads is how many threads one forward may use on the CPU. 0 chooses: all Cores, shared by the instances; one if
	// the model is so small that more would only be in the way of the codec.
	Threads, Cores int

	MaxBatchSize int
	MaxQueueSize int
	MaxWait      time.Duration
	WaitPolicy   batch.WaitPolicy

	// WarmUpWidth and WarmUpHeight are the size of the pictures that the model is warmed up with: the size that
	// requests will have.
	WarmUpWidth, WarmUpHeight int
	// AnySize says that requests can have other sizes too. A model that fails at the warm-up's size is then served
	// all the same, since another size may suit it.
	AnySize bool

	Codec *picture.Codec // makes the pictures that this model takes, and lends the memory of its answers
	Log   zerolog.Logger // gets a debug line for each batch

	// Loaded, if set, is called when the files have been read and the warm-up begins.
	Loaded func()
}

// A Model is a loaded model that takes requests.
type Model struct {
	config  Config
	threads int
	modules []*torch.Module // one for each instance, used on its runner's thread
	batcher *batcher
	warmUp  WarmUp
}

// shape is what must be equal for pictures to share a batch.
type shape struct{ width, height int }

type (
	batcher = batch.Batcher[shape, picture.Picture, picture.Picture]
	// An Arrival is a request on its way; see batch.Arrival.
	Arrival = batch.Arrival[shape, picture.Picture, picture.Picture]
)

// WarmUp is what the model's first runs were like.
type WarmUp struct {
	Took time.Duration
	Err  error // why it failed; only with Config.AnySize
}

// Load reads the model, checks that it answers a picture with finite values, runs it at every batch size, and starts to
// take requests. It returns torch's errors: for a file that can't be loaded and for a model that can't run.
func Load(config Config) (*Model, error) {
	if config.Instances < 1 || config.Threads < 0 {
		return nil, fmt.Errorf("model: %d instances with %d threads each; at least 1 instance is needed, and 0 threads or more", config.Instances, config.Threads)
	}
	m := &Model{config: config, threads: config.Threads}
	var err error
	m.batcher, err = batch.New(batch.Config[shape, picture.Picture, picture.Picture]{
		MaxBatchSize: config.MaxBatchSize,
		MaxQueueSize: config.MaxQueueSize,
		MaxWait:      config.MaxWait,
		WaitPolicy:   config.WaitPolicy,
		Runners:      config.Instances,
		Shape:        func(p picture.Picture) shape { return shape{p.Width, p.Height} },
		Setup:        m.setUp,
		Run:          m.run,
	})
	if err != nil {
		return nil, errors.Join(err, m.closeModules())
	}
	return m, nil
}

// setUp loads and warms an instance on the thread that will run it.
func (m *Model) setUp(instance int) error {
	module, err := m.load()
	if err != nil {
		return err
	}
	m.modules = append(m.modules, module)
	if instance == 0 && m.config.Loaded != nil {
		m.config.Loaded()
	}
	start := time.Now()
	m.warmUp.Err = m.warm(instance)
	m.warmUp.Took += time.Since(start)
	if m.config.AnySize {
		return nil
	}
	return m.warmUp.Err
}

func (m *Model) load() (*torch.Module, error) {
	file, err := open(m.config.Path, m.config.Content)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return file.Load(m.config.Options)
}

// open opens a model's file, or its content when path is empty.
func open(path string, content []byte) (*torch.File, error) {
	if path == "" {
		return torch.NewBytes(content), nil
	}
	return torch.Open(path)
}

// runsToWarm is how often a module must run before it runs at full speed: TorchScript watches the first run of
// each shape and compiles what it saw during the second, and a CUDA graph is made in the third.
const runsToWarm = 3

// smallForward is how long the forward of one picture takes on one thread at most for a model to be small. Decoding and
// encoding a picture takes as long or longer, and keeps all cores busy when there are many: a forward that is spread over
// cores then waits for threads that don't run, and spins meanwhile. (With two cores, sixteen clients and a model that
// negates, one thread instead of two answered five times as many pictures.)
const smallForward = 500 * time.Microsecond

// warm runs an instance at every batch size. It also settles how many threads a forward may use.
func (m *Model) warm(instance int) error {
	if m.threads == 0 {
		if err := m.chooseThreads(instance); err != nil {
			return err
		}
	}
	// The setting is the calling thread's, and so each instance's.
	if err := torch.SetNumThreads(m.threads); err != nil {
		return err
	}
	if err := m.modules[instance].CheckFinite(pictures(m.testPictures(1))); err != nil {
		return m.explainWarmUp(1, err)
	}
	// The largest first, so that memory is taken at once.
	for size := m.config.MaxBatchSize; size >= 1; size-- {
		if err := m.warmAt(instance, size); err != nil {
			return err
		}
	}
	return nil
}

// chooseThreads decides by how long the smallest batch takes on one thread.
func (m *Model) chooseThreads(instance int) error {
	if err := torch.SetNumThreads(1); err != nil {
		return err
	}
	m.threads = max(1, m.config.Cores/m.config.Instances)
	if m.config.Options.Device != torch.CPU {
		m.threads = 1
	}
	if m.threads == 1 {
		return nil
	}
	if err := m.warmAt(instance, 1); err != nil {
		return err
	}
	// The fastest of some runs, by the processor's time: others may be using the machine just now.
	const runs, atMost = 10, 20 * smallForward
	items := m.testPictures(1)
	for begun, run := threadTime(), 0; run < runs && threadTime()-begun < atMost; run++ {
		start := threadTime()
		if err := m.runOnce(instance, items); err != nil {
			return err
		}
		if threadTime()-start < smallForward {
			m.threads = 1
			return nil
		}
	}
	return nil
}

// threadTime is how long the calling thread has been running.
func threadTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		panic(err) // the clock is there on every system that this builds for
	}
	return time.Duration(now.Nano())
}

// warmAt runs an instance at one batch size until it is warm.
func (m *Model) warmAt(instance, size int) error {
	items := m.testPictures(size)
	for range runsToWarm {
		if err := m.runOnce(instance, items); err != nil {
			return err
		}
	}
	return nil
}

// runOnce takes a batch through an instance.
func (m *Model) runOnce(instance int, items []picture.Picture) error {
	finish, err := m.run(instance, items)
	if err == nil {
		_, err = finish()
	}
	if err != nil {
		return m.explainWarmUp(len(items), err)
	}
	return nil
}

func (m *Model) explainWarmUp(count int, err error) error {
	return fmt.Errorf("model: the warm-up with %d picture(s) of %dx%d failed: %w", count, m.config.WarmUpWidth, m.config.WarmUpHeight, err)
}

func (m *Model) testPictures(count int) []picture.Picture {
	items := make([]picture.Picture, count)
	for i := range items {
		items[i] = testPicture(m.config.WarmUpWidth, m.config.WarmUpHeight)
	}
	return items
}

// testPicture is a soft pattern in colour: nothing that a model for photographs would stumble over.
func testPicture(width, height int) picture.Picture {
	p := picture.Picture{Width: width, Height: height, Channels: 3, Pixels: make([]byte, width*height*3)}
	for i := range p.Pixels {
		p.Pixels[i] = byte(64 + i%128)
	}
	return p
}

// run is the batch's way through an instance; what it returns waits for the answers.
func (m *Model) run(instance int, items []picture.Picture) (func() ([]picture.Picture, error), error) {
	in := pictures(items)
	m.config.Log.Debug().Int("batch", len(items)).Int("width", in.Width).Int("height", in.Height).Msg("forward")
	answer, err := m.modules[instance].ForwardPictures(in)
	if err != nil {
		return nil, err
	}
	return func() ([]picture.Picture, error) { return m.read(answer) }, nil
}

// pictures is a batch as a module takes it.
func pictures(items []picture.Picture) torch.Pictures {
	in := torch.Pictures{Width: items[0].Width, Height: items[0].Height, Channels: items[0].Channels, Items: make([][]byte, len(items))}
	for i, item := range items {
		in.Items[i] = item.Pixels
	}
	return in
}

func (m *Model) read(answer *torch.Answer) ([]picture.Picture, error) {
	out, err := answer.Read(m.config.Codec.Alloc)
	if err != nil {
		return nil, err
	}
	answers := make([]picture.Picture, len(out.Items))
	for i := range answers {
		answers[i] = picture.Picture{Width: out.Width, Height: out.Height, Channels: out.Channels, Pixels: out.Items[i]}
	}
	return answers, nil
}

// Codec is the one that makes this model's pictures.
func (m *Model) Codec() *picture.Codec { return m.config.Codec }

// Size is the size that pictures must have, such as "228x228", or "keep": any.
func (m *Model) Size() string {
	if m.config.AnySize {
		return "keep"
	}
	return fmt.Sprintf("%dx%d", m.config.WarmUpWidth, m.config.WarmUpHeight)
}

// Info describes the module.
func (m *Model) Info() torch.Info { return m.modules[0].Info() }

// Threads is how many threads one forward may use on the CPU.
func (m *Model) Threads() int { return m.threads }

// WarmUp tells how the warm-up went.
func (m *Model) WarmUp() WarmUp { return m.warmUp }

// Arrive announces a request; see batch.Batcher.Arrive.
func (m *Model) Arrive() *Arrival { return m.batcher.Arrive() }

// Full tells whether a request would be refused at this moment.
func (m *Model) Full() bool { return m.batcher.Full() }

// StopWaiting makes batches go without waiting for company; see batch.Batcher.StopWaiting.
func (m *Model) StopWaiting() { m.batcher.StopWaiting() }

// Close answers the requests that were accepted, then returns the model's memory.
func (m *Model) Close() error {
	m.batcher.Close()
	return m.closeModules()
}

func (m *Model) closeModules() error {
	var errs []error
	for _, module := range m.modules {
		errs = append(errs, module.Close())
	}
	return errors.Join(errs...)
}
