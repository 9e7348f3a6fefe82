// Package isolation runs models in child processes, so that a model that crashes, hangs or takes too much memory ends a
// child and not the server.
//
// # Contract
//
//   - A Runner is one model in one child. The child is the same program, started with the environment variable
//     TORCHHERD_RUNNER, and Main runs in it instead of the program's own work.
//   - The child gets the model as an open file, so it loads what the server has checked, and needs no path.
//   - The pixels of a batch and of its results lie in an Arena, memory that the server and the child share, so they are
//     copied no more often than within one process. Only the server allocates there.
//   - The end of a child (crash, signal, memory, time limit) fails the call under way with a *CrashError, after the child
//     has ended: nothing writes to the batch's memory any more. Errors of package torch pass through as they are.
//   - A supervised Runner starts a new child at once, and calls wait for it. From the fourth end on without a good batch
//     between them it waits before that, 250 ms and then twice as long each time, up to 30 s. After the sixth it reports
//     a failure, and goes on.
//   - A child ends with the server, however that ends. It has no network, no files but libraries, the model and a scratch
//     folder, and starts no programs, as far as the kernel can enforce that (see Restrictions).
//
// # Implementation
//
// The server and the child exchange messages over a socket pair that keeps their boundaries: one request, one reply, so
// there is one reader on each side at any time, and both block in the read, as they would in a call of the model. The
// server drives: it sends "load", "check", "forward", and so knows what the child was doing when it ended. Rejected: a child
// that prepares the model by itself and reports its progress, because the preparation would exist twice.
package isolation

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/torch"
)

// Variable is the environment variable that makes a program a runner's child.
const Variable = "TORCHHERD_RUNNER"

// A Config says what a Runner runs.
type Config struct {
	// Model is the model's file. Start keeps a descriptor of its own.
	Model Model
	// Options are those of the load. The scratch folder is made in PackageFolder.
	Options torch.Options
	Arena   *Arena
	// Operators are the libraries of operators that the child loads before the model. The server must have loaded them too:
	// the child may read only the folders of the server's libraries.
	Operators []string
	// MaxMemory limits the memory of the child in bytes, beside what it shares; 0: no limit. It doesn't hold for CUDA.
	MaxMemory int64
	// Background makes the child load at idle priority, until Bind.
	Background bool
	Log        zerolog.Logger
}

// A Supervision says how a Runner keeps its model running.
type Supervision struct {
	// BatchLimit returns the time limit of a batch, after which the child is killed.
	BatchLimit func(torch.Images) time.Duration
	// StartLimit is the time limit of the start of a child, warm-up included.
	StartLimit time.Duration
	// WarmUp runs the model after a start, by the function that it gets, until it runs at full speed.
	WarmUp func(run func(torch.Images) error) error
}

// An Answer is the output of a batch, as *torch.Answer.
type Answer interface {
	// Read waits for the output and returns it, in memory from alloc. It must be called once.
	Read(alloc func(size int) []byte) (torch.Images, error)
}

// A CrashError is the end of a runner's child.
type CrashError struct {
	// Cause is what ended the child, such as "SIGFPE (floating-point exception)".
	Cause string
	// Output is the last line that the child wrote to its standard error; empty: none.
	Output string
}

func (e *CrashError) Error() string {
	if e.Output == "" {
		return e.Cause
	}
	return e.Cause + ": " + e.Output
}

// A RestartError is returned for a batch that no child has run, since the children end again and again, and the next one
// isn't ready.
type RestartError struct{ Cause error } // of the last end

func (e *RestartError) Error() string {
	return "the model's processes end again and again, and no new one is ready: " + e.Cause.Error()
}

// errStopped is returned by calls of a runner that is closed.
var errStopped = &CrashError{Cause: "the version is closed"}

// These are the delays before a new child, by how many have ended without a good batch between them.
const (
	freeRestarts  = 3
	firstDelay    = 250 * time.Millisecond
	longestDelay  = 30 * time.Second
	reportedAfter = 6
)

// delayBefore returns how long to wait before the next start after a number of ends in a row.
func delayBefore(ends int) time.Duration {
	if ends <= freeRestarts {
		return 0
	}
	return min(firstDelay<<min(ends-freeRestarts-1, 10), longestDelay)
}
