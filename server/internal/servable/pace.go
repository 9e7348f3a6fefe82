package servable

import (
	"sync/atomic"
	"time"
)

// stall is how long a body may pause until other requests no longer wait for it.
const stall = 10 * time.Millisecond

// A pace predicts from the bytes of a body that have arrived when the rest will be there.
type pace struct {
	start  time.Time // of the reading
	length int64     // of the body in bytes, as announced; less than 1: unknown
}

// expect returns when the body will be complete if it goes on as it has until now, when this many bytes were there. The
// result is false if that can't be predicted.
func (p *pace) expect(received int, now time.Time) (time.Time, bool) {
	left := p.length - int64(received)
	if received == 0 || left < 0 {
		return time.Time{}, false
	}
	perByte := float64(now.Sub(p.start)) / float64(received)
	return now.Add(time.Duration(min(perByte*float64(left), float64(time.Hour)))), true
}

// A mean is the mean of recent durations, in which each one weighs an eighth. The zero value is 0 until the first add. It is
// safe for concurrent use; of two calls of add at the same time one may be lost, which a mean can bear.
type mean struct{ nanoseconds atomic.Int64 }

func (m *mean) add(d time.Duration) {
	old := m.nanoseconds.Load()
	if old == 0 {
		m.nanoseconds.Store(int64(d))
		return
	}
	m.nanoseconds.Store(old + (int64(d)-old)/8)
}

func (m *mean) value() time.Duration { return time.Duration(m.nanoseconds.Load()) }
