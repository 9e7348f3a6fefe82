package loadgen

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A sample is what a client saw of one request.
type sample struct {
	intended, sent, ended time.Duration // since the run's start
	status                int           // 0: there was no answer
	failure               string        // why it isn't a good answer, if the status doesn't tell
	timing                string        // the Server-Timing header
}

func (s *sample) isSuccess() bool { return s.status >= 200 && s.status <= 299 }
func (s *sample) isGood() bool    { return s.isSuccess() && s.failure == "" }

// notSent is the failure of a request for which there was no room in flight.
const notSent = "not sent: too many were in flight"

// A journal collects the samples of one goroutine and hands them over in bundles, so that recording one takes no lock.
// A histogram for each client, merged in the end, would need none either, but takes 200 KB a client, for the latency
// alone, and could not be read for the progress.
type journal struct {
	out     chan<- []sample
	samples []sample
	handed  time.Duration
}

const (
	bundleSize = 64
	bundleAge  = 100 * time.Millisecond
)

func (j *journal) add(s sample) {
	j.samples = append(j.samples, s)
	if len(j.samples) == bundleSize || s.ended-j.handed > bundleAge {
		j.handed = s.ended
		j.flush()
	}
}

func (j *journal) flush() {
	if len(j.samples) > 0 {
		j.out <- j.samples
		j.samples = nil
	}
}

// A record is all that is known of a run. One goroutine writes it.
type record struct {
	begin, end time.Duration // of the window

	requests, good int
	lastEnd        time.Duration // of the counted requests
	latency, late  *hdrhistogram.Histogram
	statuses       map[int]int
	errors         map[string]int
	batches        map[int]int
	stages         map[string]*hdrhistogram.Histogram
	arrived        []int // good answers in each second of the window, those to requests of the warm-up too

	lately     *hdrhistogram.Histogram // latencies since the last progress
	latelyGood int
}

func newRecord(begin, end time.Duration) *record {
	return &record{
		begin: begin, end: end,
		latency: newHistogram(), late: newHistogram(), lately: newHistogram(),
		statuses: map[int]int{}, errors: map[string]int{}, batches: map[int]int{},
		stages: map[string]*hdrhistogram.Histogram{},
	}
}

// newHistogram is one for times in microseconds, to three digits. A request lasts for MaxDuration at most, and so does
// what it may be late by.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (2 * MaxDuration).Microseconds(), 3)
}

// observe adds a time; those that no clock should tell, such as a server's of a thousand hours, count as the longest.
func observe(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 0), h.HighestTrackableValue())) // fails out of this range only
}

// collect adds samples until there are no more. progress is called once a second.
func (r *record) collect(samples <-chan []sample, elapsed func() time.Duration, progress func(Progress)) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := time.Duration(0)
	for {
		select {
		case bundle, more := <-samples:
			if !more {
				return
			}
			for i := range bundle {
				r.add(&bundle[i])
			}
		case <-ticker.C:
			now := elapsed()
			if progress != nil {
				progress(r.progress(now, now-last))
			}
			r.lately.Reset()
			r.latelyGood, last = 0, now
		}
	}
}

func (r *record) add(s *sample) {
	latency := s.ended - s.intended
	if s.isGood() {
		observe(r.lately, latency)
		r.latelyGood++
		if s.ended >= r.begin && s.ended < r.end {
			r.arrive(s.ended - r.begin)
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

// arrive counts a good answer in its second of the window.
func (r *record) arrive(at time.Duration) {
	second := int(at / time.Second)
	for len(r.arrived) <= second {
		r.arrived = append(r.arrived, 0)
	}
	r.arrived[second]++
}

// maxTexts bounds how many texts and stages are told apart; a server could invent new ones for ever.
const maxTexts = 100

func countText(counts map[string]int, text string) {
	if _, known := counts[text]; !known && len(counts) >= maxTexts {
		text = "others"
	}
	counts[text]++
}

// addTiming adds what the server said of its stages and of the batch.
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
		observe(h, m.took)
	}
}

// Progress is how a run stands. Requests that began in the warm-up count in the last second's figures only.
type Progress struct {
	Elapsed                time.Duration // since the start
	WarmingUp              bool
	Requests, Good, Failed int // of the window so far
	// Of the last second: good answers a second, and their latencies.
	Goodput  float64
	P50, P99 time.Duration
}

func (r *record) progress(now, since time.Duration) Progress {
	return Progress{
		Elapsed: now, WarmingUp: now < r.begin,
		Requests: r.requests, Good: r.good, Failed: r.requests - r.good,
		Goodput: float64(r.latelyGood) / since.Seconds(),
		P50:     time.Duration(r.lately.ValueAtQuantile(50)) * time.Microsecond,
		P99:     time.Duration(r.lately.ValueAtQuantile(99)) * time.Microsecond,
	}
}
