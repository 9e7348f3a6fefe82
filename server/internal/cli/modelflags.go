package cli

import (
	"errors"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// modelFlags are the settings of a model that have flags of the same names. A nil field was not given: then the model's own
// setting counts, or else the default, which is the placeholder.
type modelFlags struct {
	Batching     *settings.Batching   `help:"${help_batching}" placeholder:"${default_batching}" group:"Batching"`
	MaxBatchSize *int                 `help:"${help_max_batch_size} In the Sanic demo: MAX_BATCH_SIZE." placeholder:"${default_max_batch_size}" group:"Batching"`
	MaxQueueSize *int                 `help:"${help_max_queue_size} In the Sanic demo: MAX_QUEUE_SIZE." placeholder:"${default_max_queue_size}" group:"Batching"`
	MaxWait      *time.Duration       `help:"${help_max_wait} In the Sanic demo: MAX_WAIT." placeholder:"${default_max_wait}" group:"Batching"`
	WaitPolicy   *settings.WaitPolicy `help:"${help_wait_policy}" placeholder:"${default_wait_policy}" group:"Batching"`

	WarmUp    *settings.WarmUp `help:"${help_warm_up}" placeholder:"${default_warm_up}" group:"Images"`
	Size      *settings.Size   `help:"${help_size}" placeholder:"${default_size}" group:"Images"`
	Quality   *int             `help:"${help_quality}" placeholder:"${default_quality}" group:"Images"`
	JPEGScale *bool            `name:"jpeg-scale" help:"${help_jpeg_scale}" group:"Images"`

	Device     *settings.Devices `help:"${help_device}" placeholder:"${default_device}" group:"Machine"`
	Precision  *precisionFlag    `help:"${help_precision}" placeholder:"${default_precision}" group:"Machine"`
	Instances  *int              `help:"${help_instances}" placeholder:"${default_instances}" group:"Machine"`
	Threads    *int              `help:"${help_threads}" placeholder:"${default_threads}" group:"Machine"`
	CUDAGraphs *bool             `name:"cuda-graphs" help:"${help_cuda_graphs}" group:"Machine"`
}

// A precisionFlag is a torch.Precision whose errors are short enough for a usage error.
type precisionFlag torch.Precision

// UnmarshalText reads a precision's name.
func (p *precisionFlag) UnmarshalText(text []byte) error {
	err := (*torch.Precision)(p).UnmarshalText(text)
	if own := (*torch.Error)(nil); errors.As(err, &own) {
		return errors.New(own.Detail)
	}
	return err
}

// settingVars returns the descriptions of all settings for the tags of flags: help_KEY and default_KEY, with underscores in
// the key.
func settingVars() kong.Vars {
	vars := kong.Vars{}
	for _, setting := range settings.All() {
		name := strings.ReplaceAll(setting.Key, "-", "_")
		vars["help_"+name] = setting.PlainHelp()
		vars["default_"+name] = setting.Default()
	}
	return vars
}

// override sets those settings that were given as flags.
func (f *modelFlags) override(s *settings.Settings) {
	set(&s.Batching, f.Batching)
	set(&s.MaxBatchSize, f.MaxBatchSize)
	s.BatchSizeGiven = s.BatchSizeGiven || f.MaxBatchSize != nil
	set(&s.MaxQueueSize, f.MaxQueueSize)
	set(&s.MaxWait, f.MaxWait)
	set(&s.WaitPolicy, f.WaitPolicy)
	set(&s.Size, f.Size)
	if f.Size != nil && !f.Size.Keep() { // the model's own settings for kept sizes no longer apply
		s.MultipleOf, s.MaxSide, s.Tile, s.WarmUp.Sizes = 0, 0, 0, nil
	}
	set(&s.WarmUp, f.WarmUp)
	set(&s.Quality, f.Quality)
	set(&s.JPEGScale, f.JPEGScale)
	set(&s.Device, f.Device)
	set(&s.Precision, (*torch.Precision)(f.Precision))
	set(&s.Instances, f.Instances)
	set(&s.Threads, f.Threads)
	set(&s.CUDAGraphs, f.CUDAGraphs)
}

func set[T any](to, given *T) {
	if given != nil {
		*to = *given
	}
}

// Validate reports values out of range as usage errors; kong calls it.
func (f *modelFlags) Validate() error {
	s := settings.Default()
	f.override(&s)
	return s.Validate()
}

// sharedFlags apply to all models of a process.
type sharedFlags struct {
	PackageFolder  string    `type:"path" help:"Folder in which AOTInductor packages are unpacked, each in a temporary folder of its own. Default: the system's folder for temporary files." placeholder:"FOLDER" group:"Machine"`
	Operators      []string  `type:"path" help:"Shared libraries with operators that models use beside PyTorch's own, such as torchvision's; loaded before the models." placeholder:"FILE,..." group:"Machine"`
	MaxModelMemory bytesFlag `default:"0" help:"Maximum size of a model's weights in bytes, all instances together; a larger model is not loaded. 0: no limit." group:"Machine"`
}
