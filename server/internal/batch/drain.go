package batch

import "time"

// A drain measures how fast the queue drains.
//
// It only counts launches that had to wait for the runners or for each other, of batches that were full or left other
// items behind. Other launches say how long an item takes, and not how many items a second can leave.
type drain struct {
	since time.Time // from which the next launch is measured; zero: it doesn't count
	// Sums over the recent launches, in which each launch weighs keep times as much as the next one.
	items float64
	time  time.Duration
	run   time.Duration // mean duration of the recent batches
}

// keep is the weight of what was measured before relative to a new measurement. It makes some sixteen launches count: few
// enough to follow a change of the load within a second or two, and many enough to even out batches of different sizes.
const keep = 15.0 / 16

// begin records that an empty queue has got an item, while all runners are busy or not.
func (d *drain) begin(busy bool) {
	d.since = time.Time{}
	if busy {
		d.since = time.Now()
	}
}

// launched records that a batch of items leaves the queue, and how many it leaves behind.
func (d *drain) launched(items int, full bool, left int) {
	now := time.Now()
	if !d.since.IsZero() && (full || left > 0) {
		d.items = keep*d.items + float64(items)
		d.time = time.Duration(keep*float64(d.time)) + now.Sub(d.since)
	}
	d.since = now
}

// ran records the duration of a batch.
func (d *drain) ran(took time.Duration) {
	if d.run == 0 {
		d.run = took
	}
	d.run += (took - d.run) / 4
}

// of returns how long a number of items would take to leave the queue; 0 if nothing was measured yet.
func (d *drain) of(items int) time.Duration {
	if d.items == 0 {
		return 0
	}
	return time.Duration(float64(d.time) / d.items * float64(items))
}
