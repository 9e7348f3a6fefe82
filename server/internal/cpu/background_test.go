package cpu

import (
	"errors"
	"runtime"
	"testing"
	"time"
)

// InBackground returns the error of its function, which runs on a locked thread.
func TestInBackgroundReturnsTheError(t *testing.T) {
	why := errors.New("why")
	if err := InBackground(func() error { return why }); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// On an idle machine, Throttle.Do leaves at least idlePerWork times the work's processor time unused. Without cores it
// doesn't wait, and an error is returned at once.
func TestThrottleLeavesTimeUnused(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const work = 5 * time.Millisecond
	spin := func() error {
		for start := ThreadTime(); ThreadTime()-start < work; {
		}
		return nil
	}
	start, before := time.Now(), processTime()
	if err := (Throttle{Cores: 1}).Do(spin); err != nil {
		t.Fatal(err)
	}
	elapsed, used := time.Since(start), processTime()-before
	if unused := elapsed - used; unused < idlePerWork*work-work && elapsed < waitPerWork*work {
		t.Errorf("%v of one core were left unused within %v", unused, elapsed)
	}
	why := errors.New("why")
	if err := (Throttle{Cores: 1}).Do(func() error { return why }); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
