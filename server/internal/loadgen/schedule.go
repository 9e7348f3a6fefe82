package loadgen

import (
	"math/rand/v2"
	"time"
)

// A schedule is a Poisson process: the times between arrivals are independent and exponentially distributed.
type schedule struct {
	random *rand.Rand
	rate   float64 // arrivals per second
	last   float64 // seconds
}

func newSchedule(rate float64, seed uint64) *schedule {
	const stream = 0 // the other half of PCG's seed, of which one half is enough
	return &schedule{random: rand.New(rand.NewPCG(seed, stream)), rate: rate}
}

// next returns the time of the next arrival. It doesn't depend on the clock, so a late request doesn't delay later ones.
func (s *schedule) next() time.Duration {
	s.last += s.random.ExpFloat64() / s.rate
	return time.Duration(s.last * float64(time.Second))
}
