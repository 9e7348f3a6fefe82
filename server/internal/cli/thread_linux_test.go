package cli

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// No goroutine that ends with its thread gets the main thread, which would not end.
func TestTheMainThreadStaysWithMain(t *testing.T) {
	for range 1000 {
		thread := make(chan int)
		go func() {
			runtime.LockOSThread()
			thread <- unix.Gettid()
		}()
		if <-thread == os.Getpid() {
			t.Fatal("a goroutine that is locked to its thread runs on the main thread")
		}
	}
}
