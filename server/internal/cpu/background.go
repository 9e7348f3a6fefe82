package cpu

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// InBackground calls f on a thread of its own that runs only while no other thread wants its core, and returns f's error.
func InBackground(f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, since an unprivileged process cannot restore its priority.
		runtime.LockOSThread()
		setIdlePriority()
		done <- f()
	}()
	return <-done
}

// A Throttle spaces background work out beside foreground work: after each piece, Do waits until the process has left
// idlePerWork times the piece's processor time unused, but at most waitPerWork times that time and at most longestWait.
// So the background takes a small part of what the foreground leaves over, and is fast when the foreground is idle.
//
// With the bundled model at 80 % of what two cores can do and one swap after the other, waits of twice a piece made the
// 99th percentile of the latency 2.3 to 3.0 times that without swaps, and these waits 1.2 times (turns of 18 s); a swap
// took 4 instead of 2.5 seconds.
//
// The zero value doesn't wait.
type Throttle struct {
	Cores int // cores that the process may use; 0: don't throttle
	// Clock is the processor time that the work uses; nil: ThreadTime, which is that of work on the calling thread.
	Clock func() time.Duration
}

const (
	idlePerWork = 3
	waitPerWork = 20
	longestWait = 10 * time.Second
)

// Do calls work on the calling thread, to which the goroutine must be locked, and then waits as the type says. After an
// error of work it returns that at once.
func (t Throttle) Do(work func() error) error {
	clock := t.Clock
	if clock == nil {
		clock = ThreadTime
	}
	start := clock()
	if err := work(); err != nil {
		return err
	}
	if t.Cores > 0 {
		used := clock() - start
		waitForIdleCPU(t.Cores, idlePerWork*used, min(waitPerWork*used, longestWait))
	}
	return nil
}

// waitForIdleCPU returns when the process has left idle much processor time unused, at the latest after limit.
func waitForIdleCPU(cores int, idle, limit time.Duration) {
	start, usedBefore := time.Now(), processTime()
	for {
		elapsed := time.Since(start)
		missing := idle - (time.Duration(cores)*elapsed - (processTime() - usedBefore))
		if missing <= 0 || elapsed >= limit {
			return
		}
		time.Sleep(min(max(missing/time.Duration(cores), time.Millisecond), limit-elapsed))
	}
}

// ThreadTime returns the processor time that the calling thread has used.
func ThreadTime() time.Duration { return readClock(unix.CLOCK_THREAD_CPUTIME_ID) }

// processTime returns the processor time that all threads of the process have used.
func processTime() time.Duration { return readClock(unix.CLOCK_PROCESS_CPUTIME_ID) }

func readClock(clock int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		panic(err) // every system that this builds for has both clocks
	}
	return time.Duration(now.Nano())
}
