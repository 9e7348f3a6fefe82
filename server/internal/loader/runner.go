package loader

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/isolation"
	"github.com/torchherd/torchherd/server/internal/servable"
	"github.com/torchherd/torchherd/torch"
)

// A place is where a load runs the model.
type place int

const (
	inServer place = iota // in this process
	inTrial               // in a child process that ends with the load
	inRunner              // in child processes that go on to serve
)

// placeToServe is where versions are served.
func (s *Shared) placeToServe() place {
	if s.Isolate {
		return inRunner
	}
	return inServer
}

// memoryShare is the part of the available memory that a child process may take.
const memoryShare = 0.75

// startRunner starts a child process with an instance.
func (p *preparation) startRunner(options torch.Options) (*isolation.Runner, error) {
	model := isolation.Model{Name: p.file.Name(), File: p.file.content.OS(), Content: p.file.content.Bytes()}
	r, err := isolation.Start(p.ctx, isolation.Config{
		Model: model, Options: options, Arena: p.arena, MaxMemory: int64(memoryShare * float64(isolation.AvailableMemory())),
		Operators: p.loader.shared.Operators, Background: p.request.Background, Log: p.loader.shared.Log.With().Str("model", p.loader.source.Name()).Logger(),
	})
	if err != nil {
		return nil, err
	}
	p.runners = append(p.runners, r)
	if lacking := r.Lacking(); len(lacking) > 0 {
		p.loader.shared.lacking.Do(func() {
			p.loader.shared.Log.Warn().Str("lacking", strings.Join(lacking, "; ")).Msg("models in child processes are less restricted than they could be")
		})
	}
	return r, nil
}

// clock is the processor time that the instances have used; nil: that of the calling thread.
func (p *preparation) clock() func() time.Duration {
	if p.place == inServer {
		return nil
	}
	return func() time.Duration {
		var sum time.Duration
		for _, r := range p.runners {
			sum += r.ProcessorTime()
		}
		return sum
	}
}

// explainCrash says what the model was doing when it ended its process.
func (p *preparation) explainCrash(err error) error {
	var crash *isolation.CrashError
	if !errors.As(err, &crash) {
		return err
	}
	where := "in its process"
	if p.place == inTrial {
		where = "in a trial"
	}
	return fmt.Errorf("loader: the model crashed %s: %w, while %s", where, crash, p.doing)
}

// The limit of a start, beside what it took at the load.
const (
	leastStart    = 10 * time.Second
	startsPerLoad = 10
)

// supervise makes the instances come back when their processes end.
func (p *preparation) supervise() {
	limit := forwardLimit(p.loader.shared.ForwardTimeout, p.warmUp.Slowest)
	for instance, r := range p.runners {
		r.Supervise(isolation.Supervision{
			BatchLimit: func(b torch.Images) time.Duration { return limit(len(b.Items) * b.Width * b.Height) },
			StartLimit: max(leastStart, startsPerLoad*p.warmUp.Duration),
			WarmUp:     func(run func(torch.Images) error) error { return p.warmUpAgain(instance, run) },
		})
	}
}

// warmUpAgain runs an instance in a new process as the load did, without its checks.
func (p *preparation) warmUpAgain(instance int, run func(torch.Images) error) error {
	if !p.sizeWorks() {
		return nil
	}
	runAlone := run
	run = func(batch torch.Images) error { return runAlone(addTestParts(p.parts, batch)) }
	times := 1
	if p.device(instance) != torch.CPU {
		times = runsOnCUDA
	}
	return p.eachSize(func(width, height int) error {
		if err := run(servable.Stack(testImages(1, width, height))); err != nil {
			return err
		}
		for _, size := range p.batchSizes(instance) {
			for range times {
				if err := run(servable.Stack(testImages(size, width, height))); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func describeBatch(count, width, height int) string {
	return fmt.Sprintf("running %s of %dx%d", countOf(count), width, height)
}

func countOf(images int) string {
	if images == 1 {
		return "1 image"
	}
	return strconv.Itoa(images) + " images"
}
