// Package model is what is being served: a module on a device, the batcher in front of it, and the thread that it
// runs on.
package model

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/picture"
	"github.com/torchherd/torchherd/torch"
)

// Config says what to serve and how.
type Config struct {
	// Path is the model's file; Content its bytes, used when Path is empty.
	Path    string
	Content []byte
	Device  torch.Device

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

	// Alloc makes the memory of an answer's pixels; nil is make.
	Alloc func(size int) []byte
	Log   zerolog.Logger // gets a debug line for each batch
}

// A Model is a loaded model that takes requests.
type Model struct {
	config  Config
	module  *torch.Module
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

// Load reads the model, runs it once at every batch size, and starts to take requests. It returns torch's errors:
// for a file that can't be loaded and for a model that can't run.
func Load(config Config) (*Model, error) {
	m := &Model{config: config}
	var err error
	m.batcher, err = batch.New(batch.Config[shape, picture.Picture, picture.Picture]{
		MaxBatchSize: config.MaxBatchSize,
		MaxQueueSize: config.MaxQueueSize,
		MaxWait:      config.MaxWait,
		WaitPolicy:   config.WaitPolicy,
		Shape:        func(p picture.Picture) shape { return shape{p.Width, p.Height} },
		Setup:        m.setUp,
		Run:          m.run,
	})
	if err != nil {
		return nil, errors.Join(err, m.closeModule())
	}
	return m, nil
}

// setUp loads and warms on the thread that will run the model.
func (m *Model) setUp() error {
	var err error
	if m.config.Path != "" {
		m.module, err = load(m.config.Path, m.config.Device)
	} else {
		m.module, err = torch.LoadBytes(m.config.Content, m.config.Device)
	}
	if err != nil {
		return err
	}
	start := time.Now()
	m.warmUp.Err = m.warm()
	m.warmUp.Took = time.Since(start)
	if m.config.AnySize {
		return nil
	}
	return m.warmUp.Err
}

func load(path string, device torch.Device) (*torch.Module, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("model: %s is a folder; name a TorchScript file", path)
	}
	return torch.Load(path, device)
}

// runsToWarm is how often a module must run before it runs at full speed: TorchScript watches the first run of
// each shape and compiles what it saw during the second.
const runsToWarm = 2

// warm runs the model at every batch size, the largest first, so that memory is taken at once.
func (m *Model) warm() error {
	for size := m.config.MaxBatchSize; size >= 1; size-- {
		items := make([]picture.Picture, size)
		for i := range items {
			items[i] = testPicture(m.config.WarmUpWidth, m.config.WarmUpHeight)
		}
		for range runsToWarm {
			if _, err := m.run(items); err != nil {
				return fmt.Errorf("model: the warm-up with %d picture(s) of %dx%d failed: %w",
					size, m.config.WarmUpWidth, m.config.WarmUpHeight, err)
			}
		}
	}
	return nil
}

// testPicture is a soft pattern in colour: nothing that a model for photographs would stumble over.
func testPicture(width, height int) picture.Picture {
	p := picture.Picture{Width: width, Height: height, Channels: 3, Pixels: make([]byte, width*height*3)}
	for i := range p.Pixels {
		p.Pixels[i] = byte(64 + i%128)
	}
	return p
}

// run is the batch's way through the module.
func (m *Model) run(items []picture.Picture) ([]picture.Picture, error) {
	in := torch.Pictures{Width: items[0].Width, Height: items[0].Height, Channels: items[0].Channels, Items: make([][]byte, len(items))}
	for i, item := range items {
		in.Items[i] = item.Pixels
	}
	m.config.Log.Debug().Int("batch", len(items)).Int("width", in.Width).Int("height", in.Height).Msg("forward")
	out, err := m.module.ForwardPictures(in, m.config.Alloc)
	if err != nil {
		return nil, err
	}
	answers := make([]picture.Picture, len(items))
	for i := range answers {
		answers[i] = picture.Picture{Width: out.Width, Height: out.Height, Channels: out.Channels, Pixels: out.Items[i]}
	}
	return answers, nil
}

// Info describes the module.
func (m *Model) Info() torch.Info { return m.module.Info() }

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
	return m.closeModule()
}

func (m *Model) closeModule() error {
	if m.module == nil {
		return nil
	}
	return m.module.Close()
}
