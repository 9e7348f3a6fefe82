package loadgen

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A sample is what a client observed of one request.
type sample struct {
	intended, sent, ended time.Duration // since the start of the run
	status                int           // 0: no response
	failure               string        // why the response isn't good, if its status is 2xx or there is none
	timing                string        // the Server-Timing header
}

func (s *sample) isSuccess() bool { return s.status >= 200 && s.status <= 299 }
func (s *sample) isGood() bool    { return s.isSuccess() && s.failure == "" }

// notSent is the failure of a request that would have exceeded MaxInFlight.
const notSent = "not sent: too many requests in flight"

// A sampleBuffer collects the samples of one goroutine and passes them on in batches, so that adding one takes no lock.
// Rejected: a histogram for each client, merged at the end. It takes no lock either, but 200 KB per client for the
// latency alone, and progress couldn't be read from it.
type sampleBuffer struct {
	out     chan<- []sample
	samples []sample
	flushed time.Duration
}

const (
	bufferSize = 64
	bufferAge  = 100 * time.Millisecond
)

func (b *sampleBuffer) add(s sample) {
	b.samples = append(b.samples, s)
	if len(b.samples) == bufferSize || s.ended-b.flushed > bufferAge {
		b.flushed = s.ended
		b.flush()
	}
}

func (b *sampleBuffer) flush() {
	if len(b.samples) > 0 {
		b.out <- b.samples
		b.samples = nil
	}
}

// A record holds everything that was measured in a run. One goroutine writes it.
type record struct {
	begin, end time.Duration // of the window

	requests, good int
	lastEnd        time.Duration // of the counted requests
	latency, late  *hdrhistogram.Histogram
	statuses       map[int]int
	errors         map[string]int
	batches        map[int]int
	stages         map[string]*hdrhistogram.Histogram
	throughput     []int // good responses in each second of the window, to requests of the warm-up too

	recent     *hdrhistogram.Histogram // latencies since the last progress
	recentGood int
}

func newRecord(begin, end time.Duration) *record {
	return &record{
		begin: begin, end: end,
		latency: newHistogram(), late: newHistogram(), recent: newHistogram(),
		statuses: map[int]int{}, errors: map[string]int{}, batches: map[int]int{},
		stages: map[string]*hdrhistogram.Histogram{},
	}
}

// newHistogram returns a histogram of times in microseconds, with three digits. A request takes at most MaxDuration and is
// at most that late.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (2 * MaxDuration).Microseconds(), 3)
}

// observe adds a time. It counts one beyond the range, which a faulty server may report, as the longest.
func observe(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 0), h.HighestTrackableValue())) // can fail only outside of this range
}

// collect adds samples until their channel is closed. It calls progress once a second.
func (r *record) collect(samples <-chan []sample, elapsed func() time.Duration, progress func(Progress)) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := time.Duration(0)
	for {
		select {
		case batch, ok := <-samples:
			if !ok {
				return
			}
			for i := range batch {
				r.add(&batch[i])
			}
		case <-ticker.C:
			now := elapsed()
			if progress != nil {
				progress(r.progress(now, now-last))
			}
			r.recent.Reset()
			r.recentGood, last = 0, now
		}
	}
}

func (r *record) add(s *sample) {
	latency := s.ended - s.intended
	if s.isGood() {
		observe(r.recent, latency)
		r.recentGood++
		if s.ended >= r.begin && s.ended < r.end {
			r.countThroughput(s.ended - r.begin)
		}
	}
	if s.intended < r.begin {
		return
	}
	r.requests++
	r.lastEnd = max(r.lastEnd, s.ended)
	observe(r.late, s.sent-s.intended)
	if s.status != 0 {
		r.statuses[s.status]++
	}
	if s.failure != "" {
		countText(r.errors, s.failure)
	}
	if s.isGood() {
		r.good++
		observe(r.latency, latency)
		r.addTiming(s.timing)
	}
}

// countThroughput counts a good response in its second of the window.
func (r *record) countThroughput(at time.Duration) {
	second := int(at / time.Second)
	for len(r.throughput) <= second {
		r.throughput = append(r.throughput, 0)
	}
	r.throughput[second]++
}

// maxTexts limits the number of different texts and stages, since a server could send new ones for ever.
const maxTexts = 100

func countText(counts map[string]int, text string) {
	if _, known := counts[text]; !known && len(counts) >= maxTexts {
		text = "others"
	}
	counts[text]++
}

// addTiming adds the stages and the batch size of a Server-Timing header.
func (r *record) addTiming(header string) {
	for header != "" {
		var m metric
		m, header = nextMetric(header)
		if m.name == "batch" && m.size > 0 {
			r.batches[m.size]++
		}
		if !m.timed {
			continue
		}
		h := r.stages[m.name]
		if h == nil {
			if len(r.stages) >= maxTexts {
				continue
			}
			h = newHistogram()
			r.stages[m.name] = h
		}
		observe(h, m.duration)
	}
}

// Progress is the state of a run. Requests that started in the warm-up count only in the figures of the last second.
type Progress struct {
	Elapsed                time.Duration // since the start
	WarmingUp              bool
	Requests, Good, Failed int           // of the window so far
	Goodput                float64       // good responses per second in the last second
	P50, P99               time.Duration // latencies of those
}

func (r *record) progress(now, since time.Duration) Progress {
	return Progress{
		Elapsed: now, WarmingUp: now < r.begin,
		Requests: r.requests, Good: r.good, Failed: r.requests - r.good,
		Goodput: float64(r.recentGood) / since.Seconds(),
		P50:     time.Duration(r.recent.ValueAtQuantile(50)) * time.Microsecond,
		P99:     time.Duration(r.recent.ValueAtQuantile(99)) * time.Microsecond,
	}
}
