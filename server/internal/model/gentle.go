package model

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// inBackground calls f on a thread that runs when nobody else wants its core.
func inBackground(f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, since nobody unprivileged can give it its priority back.
		runtime.LockOSThread()
		yieldAlways()
		done <- f()
	}()
	return <-done
}

// After each piece of a gentle load its thread rests until the process has left sparePerWork times the processor time
// over that the piece took, for at most restPerWork times that time and at most longestRest. So a swap takes a small
// part of what those who are being served leave over, and is quick when they are idle. (The bundled model at 80 % of what
// two cores can do, with one swap after the other: with rests of twice a piece the 99th percentile of the latencies was
// 2.3 to 3.0 times that without swaps, and with these 1.2, in turns of 18 s; a swap took 4 instead of 2.5 seconds.)
const (
	sparePerWork = 3
	restPerWork  = 20
	longestRest  = 10 * time.Second
)

// sparingly does a piece of the work of a load, and rests afterwards if others are being served.
func (m *Model) sparingly(work func() error) error {
	begun := threadTime()
	if err := work(); err != nil {
		return err
	}
	if m.gentle {
		took := threadTime() - begun
		m.awaitSpare(sparePerWork*took, min(restPerWork*took, longestRest))
	}
	return nil
}

// awaitSpare returns when the process has left so much processor time over, at the latest after limit.
func (m *Model) awaitSpare(need, limit time.Duration) {
	cores := time.Duration(m.host.Cores)
	begun, usedBefore := time.Now(), processTime()
	for {
		passed := time.Since(begun)
		missing := need - (cores*passed - (processTime() - usedBefore))
		if missing <= 0 || passed >= limit {
			return
		}
		time.Sleep(min(max(missing/cores, time.Millisecond), limit-passed))
	}
}

// threadTime is how long the calling thread has been running.
func threadTime() time.Duration { return readClock(unix.CLOCK_THREAD_CPUTIME_ID) }

// processTime is how long the process's threads have been running, together.
func processTime() time.Duration { return readClock(unix.CLOCK_PROCESS_CPUTIME_ID) }

func readClock(clock int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		panic(err) // both clocks are there on every system that this builds for
	}
	return time.Duration(now.Nano())
}
