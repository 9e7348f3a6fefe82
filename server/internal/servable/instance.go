package servable

import (
	"errors"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/torch"
)

// An Instance is one copy of a model on a device: in this process (InProcess) or in a process of its own
// (*isolation.Runner). One of the batcher's runners uses it, so its calls never overlap, except those of Healthy. An
// answer is read on another goroutine.
type Instance interface {
	Info() torch.Info
	// Bind prepares the calling thread, which is the runner's own, for batches: with the model's share of the cores, and
	// the number of threads that a forward may use on the CPU.
	Bind(shares *cpu.Shares, model string, threads int) error
	// SetThreads changes the number of threads of Bind.
	SetThreads(threads int) error
	// CheckFinite is torch.Module.CheckFinite.
	CheckFinite(batch torch.Images) error
	// Start begins a batch. When it or the answer's Read has returned, except Start without an error, nothing uses the
	// batch's memory any more.
	Start(batch torch.Images) (isolation.Answer, error)
	// Healthy returns why the instance can't run batches at the moment; nil: it can.
	Healthy() error
	// Failed receives an error when the instance has given up hope that it will run batches again. nil: it never does.
	Failed() <-chan error
	Close() error
}

// InProcess returns an Instance that runs a module in this process.
func InProcess(module *torch.Module) Instance { return inProcess{module} }

type inProcess struct{ *torch.Module }

func (inProcess) Bind(shares *cpu.Shares, model string, threads int) error {
	if err := shares.Enter(model); err != nil {
		return err
	}
	return torch.SetNumThreads(threads)
}

func (inProcess) SetThreads(threads int) error { return torch.SetNumThreads(threads) }

func (m inProcess) Start(batch torch.Images) (isolation.Answer, error) {
	answer, err := m.ForwardImages(batch)
	if err != nil {
		return nil, err // not a nil *torch.Answer in the interface
	}
	return answer, nil
}

func (inProcess) Healthy() error { return nil }

func (inProcess) Failed() <-chan error { return nil }

// CloseInstances closes all instances and joins their errors.
func CloseInstances(instances []Instance) error {
	var errs []error
	for _, instance := range instances {
		errs = append(errs, instance.Close())
	}
	return errors.Join(errs...)
}
