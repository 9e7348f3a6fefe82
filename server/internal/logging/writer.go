package logging

import (
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	// maxPending is the maximum number of bytes that wait in a Writer while a write is under way, which holds as many again.
	maxPending = 1 << 20
	// errorWait is how long a line at level error may wait for its write, so that it is in the file before whatever follows.
	errorWait = 20 * time.Millisecond
	// The time between two attempts to write to a reader that has gone grows from firstRetry to lastRetry.
	firstRetry = 10 * time.Millisecond
	lastRetry  = time.Second
)

// A Writer writes lines to a file in a goroutine of its own, so that a reader of the file that stands still or has gone
// never blocks who logs. Its methods are safe for concurrent use.
//
//  1. Write never blocks, except for a line at level error or above: that waits for its write, at most errorWait, and not at
//     all while the file has accepted nothing since such a wait was in vain.
//  2. Lines are written in the order of the calls, each whole. Those that no longer fit in maxPending bytes are dropped. A
//     line in their place reports how many.
//  3. What couldn't be written is tried again until Close.
//
// Lines that come during a write are written together by the next one, so a crash of the process loses no more than the
// lines of the last moment.
//
// Rejected: zerolog's diode. It bounds the number of lines and not their bytes, drops the oldest lines, which say how a
// problem began, reports collisions on stderr by a blocking write, and its Close waits for the file without limit.
type Writer struct {
	file   *os.File
	report func(dropped int) []byte // makes the line about dropped ones
	closed chan struct{}            // closed by Close
	close  func()                   // closes closed, once
	ended  chan struct{}            // closed when the writing goroutine ends

	mu      sync.Mutex
	wake    sync.Cond     // signals the writing goroutine
	pending []byte        // INVARIANT: at most maxPending bytes of whole lines
	dropped int           // lines since pending became full; while it isn't 0, all lines are dropped
	stuck   bool          // a line at level error has waited in vain since the last write
	written chan struct{} // closed when what is pending has been written; nil: nobody waits
	tail    tail
}

// Tail returns the last 1,000 lines, also those that couldn't be written.
func (w *Writer) Tail() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail.text()
}

// newWriter returns a Writer to file. The caller must Close it.
func newWriter(file *os.File, report func(dropped int) []byte) *Writer {
	w := &Writer{file: file, report: report, closed: make(chan struct{}), ended: make(chan struct{})}
	w.close = sync.OnceFunc(func() { close(w.closed) })
	w.wake.L = &w.mu
	go w.run()
	return w
}

// Write queues a line. It never blocks and returns no error.
func (w *Writer) Write(line []byte) (int, error) { return w.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel queues a line of a level, and waits as the type says.
func (w *Writer) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	w.mu.Lock()
	w.tail.add(line)
	if w.dropped > 0 || len(w.pending)+len(line) > maxPending {
		w.dropped++
		w.mu.Unlock()
		return len(line), nil
	}
	w.pending = append(w.pending, line...)
	var written chan struct{}
	if level >= zerolog.ErrorLevel && level <= zerolog.PanicLevel && !w.stuck && !w.isClosed() {
		if w.written == nil {
			w.written = make(chan struct{})
		}
		written = w.written
	}
	w.mu.Unlock()
	w.wake.Signal()
	if written != nil {
		w.await(written)
	}
	return len(line), nil
}

func (w *Writer) await(written <-chan struct{}) {
	timer := time.NewTimer(errorWait)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
		w.mu.Lock()
		w.stuck = true
		w.mu.Unlock()
	}
}

// run writes what is pending until Close.
func (w *Writer) run() {
	defer close(w.ended)
	var chunk []byte
	for {
		w.mu.Lock()
		for len(w.pending) == 0 && w.dropped == 0 && !w.isClosed() {
			w.wake.Wait()
		}
		chunk, w.pending = w.pending, chunk[:0]
		dropped, written := w.dropped, w.written
		w.dropped, w.written = 0, nil
		w.mu.Unlock()
		if len(chunk) == 0 && dropped == 0 {
			return // closed
		}
		if dropped > 0 {
			chunk = append(chunk, w.report(dropped)...)
		}
		if !w.writeAll(chunk) {
			return
		}
		if written != nil {
			close(written)
		}
	}
}

// writeAll writes a chunk and returns true, or returns false if that fails after Close.
func (w *Writer) writeAll(chunk []byte) bool {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		n, err := w.file.Write(chunk)
		if n > 0 {
			w.mu.Lock()
			w.stuck = false
			w.mu.Unlock()
		}
		if err == nil {
			return true
		}
		chunk = chunk[n:]
		if w.isClosed() {
			return false
		}
		select {
		case <-w.closed:
		case <-time.After(retry):
		}
	}
}

func (w *Writer) isClosed() bool {
	select {
	case <-w.closed:
		return true
	default:
		return false
	}
}

// Close writes what is pending and returns, after the limit at the latest. If the file's reader has gone, it returns after
// one attempt. Later lines are lost. The file stays open.
func (w *Writer) Close(limit time.Duration) {
	w.mu.Lock() // so that run is either waiting or will see it
	w.close()
	w.mu.Unlock()
	w.wake.Signal()
	select {
	case <-w.ended:
	case <-time.After(limit):
	}
}
