package cli

import (
	"time"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// modelFlags are the settings of a model that have flags too, of the same names. What is nil wasn't given, and the model's
// own setting counts, or else the default that stands in the help.
type modelFlags struct {
	MaxBatchSize *int                 `help:"Images in a batch at most (the demo's MAX_BATCH_SIZE)." placeholder:"2" group:"Batching"`
	MaxQueueSize *int                 `help:"Images waiting at most; more are refused (MAX_QUEUE_SIZE)." placeholder:"3" group:"Batching"`
	MaxWait      *time.Duration       `help:"How long a picture waits for company at most (MAX_WAIT)." placeholder:"1s" group:"Batching"`
	WaitPolicy   *settings.WaitPolicy `help:"adaptive: wait only while another picture is on its way; fixed: always wait, as the demo does." placeholder:"adaptive" group:"Batching"`

	Size      *settings.Size `help:"Size that pictures are resized to; keep: each at its own. By default what the model says, else 228x228." placeholder:"WIDTHxHEIGHT" group:"Images"`
	Quality   *int           `help:"Quality of JPEG answers, 1 to 100." placeholder:"75" group:"Images"`
	JPEGScale *bool          `name:"jpeg-scale" help:"Decode JPEGs that are at least twice as large as --size at 1/2, 1/4 or 1/8 of their size: faster, and not the same pixels." group:"Images"`

	Device     *settings.Devices   `help:"cpu, cuda:N, several of these with commas, or auto (cuda:0 where there is one, else cpu)." placeholder:"auto" group:"Machine"`
	Precision  *settings.Precision `help:"What a TorchScript model computes in: fp32, bf16, or on CUDA also tf32 and fp16." placeholder:"fp32" group:"Machine"`
	Instances  *int                `help:"Copies of the model on each device that run batches side by side." placeholder:"1" group:"Machine"`
	Threads    *int                `help:"Threads that a forward may use; 0: the cores that this process may use, shared by the instances, or 1 for a small model." placeholder:"0" group:"Machine"`
	CUDAGraphs *bool               `name:"cuda-graphs" help:"On CUDA, replay each batch size as a CUDA graph." group:"Machine"`
}

// override changes those settings that have been given as flags.
func (f *modelFlags) override(s *settings.Settings) {
	set(&s.MaxBatchSize, f.MaxBatchSize)
	set(&s.MaxQueueSize, f.MaxQueueSize)
	set(&s.MaxWait, f.MaxWait)
	set(&s.WaitPolicy, f.WaitPolicy)
	set(&s.Size, f.Size)
	if f.Size != nil && !f.Size.Keep() { // then what the model says of sizes that are kept is void
		s.MultipleOf, s.MaxSide, s.WarmUp = 0, 0, nil
	}
	set(&s.Quality, f.Quality)
	set(&s.JPEGScale, f.JPEGScale)
	set(&s.Device, f.Device)
	set(&s.Precision, f.Precision)
	set(&s.Instances, f.Instances)
	set(&s.Threads, f.Threads)
	set(&s.CUDAGraphs, f.CUDAGraphs)
}

func set[T any](to, given *T) {
	if given != nil {
		*to = *given
	}
}

// Validate is called by kong: what it finds is a usage error.
func (f *modelFlags) Validate() error {
	s := settings.Default()
	f.override(&s)
	return s.Validate()
}

// hostFlags are what the models of a process have in common.
type hostFlags struct {
	PackageFolder  string    `type:"path" help:"Where a .pt2 is unpacked, in a folder that is removed again; by default the system's for temporary files." placeholder:"FOLDER" group:"Machine"`
	MaxModelMemory bytesFlag `default:"0" help:"Bytes that a model's weights may take, of all its instances together; a larger one isn't loaded. 0: no limit." group:"Machine"`
}
