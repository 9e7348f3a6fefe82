// Package model is what is being served: a module on a device, the batcher in front of it, and the thread that it
// runs on.
package model

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// A Model is a loaded model that takes requests.
type Model struct {
	name     string
	settings settings.Settings
	host     *Host
	devices  []torch.Device // of the instances, in turn
	codec    *imagecodec.Codec
	file     *torch.File // until it is loaded
	warming  func()
	gentle   bool // others are being served meanwhile
	threads  int
	modules  []*torch.Module // one for each instance, used on its runner's thread
	batcher  *batcher
	warmUp   WarmUp
	timings  []Timing
}

// shape is what must be equal for pictures to share a batch.
type shape struct{ width, height int }

type (
	batcher = batch.Batcher[shape, imagecodec.Image, imagecodec.Image]
	// An Arrival is a request on its way; see batch.Arrival.
	Arrival = batch.Arrival[shape, imagecodec.Image, imagecodec.Image]
)

// WarmUp is what the model's first runs were like.
type WarmUp struct {
	Took time.Duration // reading the file included
	Err  error         // why it failed at a size that only the warm-up has chosen; pictures of other sizes may do
}

// Load reads the model, checks that it answers a picture with finite values, runs it at every batch size, and starts to
// take requests. The file stays the caller's, who may close it afterwards. warming is called when the file has been read
// and the warm-up begins. gentle says that others are being served meanwhile, who need the cores first. The errors are
// torch's: of a file that can't be loaded and of a model that can't run.
func Load(name string, file *torch.File, s settings.Settings, host *Host, gentle bool, warming func()) (*Model, error) {
	m := &Model{name: name, settings: s, host: host, file: file, gentle: gentle, warming: warming, threads: s.Threads}
	var err error
	if m.devices, err = devices(s.Device); err != nil {
		return nil, err
	}
	if err := m.checkMemory(); err != nil {
		return nil, err
	}
	if m.codec, err = newCodec(s, host); err != nil {
		return nil, err
	}
	policy := batch.Adaptive
	if s.WaitPolicy == settings.Fixed {
		policy = batch.Fixed
	}
	m.batcher, err = batch.New(batch.Config[shape, imagecodec.Image, imagecodec.Image]{
		MaxBatchSize: s.MaxBatchSize,
		MaxQueueSize: s.MaxQueueSize,
		MaxWait:      s.MaxWait,
		FixedWait:    s.WaitPolicy == settings.Fixed,
		Runners:      m.Instances(),
		Shape:        func(p imagecodec.Image) shape { return shape{p.Width, p.Height} },
		Setup:        m.setUp,
		Run:          m.run,
	})
	m.file = nil
	if err != nil {
		return nil, errors.Join(err, m.closeModules())
	}
	return m, nil
}

// Instances is how many copies there are on all devices together.
func (m *Model) Instances() int { return m.settings.Instances * len(m.devices) }

// devices finds the devices.
func devices(wanted settings.Devices) ([]torch.Device, error) {
	if len(wanted) == 0 {
		cuda, err := torch.NewDevice("cuda:0")
		if err == nil && cuda.Available() == nil {
			return []torch.Device{cuda}, nil
		}
		return []torch.Device{torch.CPU}, nil
	}
	for _, device := range wanted {
		if err := device.Available(); err != nil {
			return nil, err
		}
	}
	return wanted, nil
}

// checkMemory refuses a model that is too large before any memory is taken.
func (m *Model) checkMemory() error {
	need := m.file.Size() * int64(m.Instances())
	if limit := m.host.MaxMemory; limit > 0 && need > limit {
		return fmt.Errorf("model: %d instance(s) of it need %d bytes of memory at least, and --max-model-memory is %d: %w", m.Instances(), need, limit, torch.ErrOutOfMemory)
	}
	return nil
}

func newCodec(s settings.Settings, host *Host) (*imagecodec.Codec, error) {
	return imagecodec.NewCodec(imagecodec.Config{
		Slots: host.Slots, Weight: s.Weight, MaxPixels: host.MaxPixels, RefusePalette: host.RefusePalette,
		Size: s.Size, MultipleOf: s.MultipleOf, MaxSide: s.MaxSide, ResizeFilter: s.ResizeFilter, JPEGScale: s.JPEGScale,
		EXIF: s.EXIF, Grayscale: s.Grayscale, Quality: s.Quality,
	})
}

// options are how an instance is loaded.
func (m *Model) options(instance int) torch.Options {
	return torch.Options{
		Device: m.device(instance), Precision: m.settings.Precision, CUDAGraphs: m.settings.CUDAGraphs, PackageFolder: m.host.PackageFolder,
		Values: m.settings.TensorValues(),
	}
}

func (m *Model) device(instance int) torch.Device { return m.devices[instance%len(m.devices)] }

// run is the batch's way through an instance; what it returns waits for the answers.
func (m *Model) run(instance int, items []imagecodec.Image) (func() ([]imagecodec.Image, error), error) {
	in := pictures(items)
	m.host.Log.Debug().Int("batch", len(items)).Int("width", in.Width).Int("height", in.Height).Msg("forward")
	answer, err := m.modules[instance].ForwardImages(in)
	if err != nil {
		return nil, err
	}
	return func() ([]imagecodec.Image, error) { return m.read(answer) }, nil
}

// pictures is a batch as a module takes it.
func pictures(items []imagecodec.Image) torch.Images {
	in := torch.Images{Width: items[0].Width, Height: items[0].Height, Channels: items[0].Channels, Items: make([][]byte, len(items))}
	for i, item := range items {
		in.Items[i] = item.Pixels
	}
	return in
}

func (m *Model) read(answer *torch.Answer) ([]imagecodec.Image, error) {
	out, err := answer.Read(m.codec.Alloc)
	if err != nil {
		return nil, err
	}
	answers := make([]imagecodec.Image, len(out.Items))
	for i := range answers {
		answers[i] = imagecodec.Image{Width: out.Width, Height: out.Height, Channels: out.Channels, Pixels: out.Items[i]}
	}
	return answers, nil
}

// ModelName is the model's name.
func (m *Model) ModelName() string { return m.name }

// Codec is the one that makes this model's pictures.
func (m *Model) Codec() *imagecodec.Codec { return m.codec }

// Format is the format of answers whose request asks for none.
func (m *Model) Format() settings.Format { return m.settings.Format }

// Settings are those that the model is served with.
func (m *Model) Settings() settings.Settings { return m.settings }

// Info describes the module.
func (m *Model) Info() torch.Info { return m.modules[0].Info() }

// Devices are the names of the devices, with commas.
func (m *Model) Devices() string {
	names := make([]string, len(m.devices))
	for i, device := range m.devices {
		names[i] = device.String()
	}
	return strings.Join(names, ",")
}

// Timings are those of the first instance, if Host.TimedRuns asks for them and the warm-up didn't fail.
func (m *Model) Timings() []Timing { return m.timings }

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
