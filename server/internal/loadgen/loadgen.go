// Package loadgen sends images to an image-to-image server and measures the responses.
//
// In a closed loop each client sends its next request when it has the response to the last one; this measures the
// throughput of a server. In an open loop requests start at the times of a Poisson process, whatever the server does;
// this measures its latency at a given rate. The latency counts from the intended start, because a server that stalls
// would otherwise hide the requests that it kept from being sent (Gil Tene calls this coordinated omission).
//
// Requests aren't retried. Each has one of three outcomes: a good response (status 2xx and a complete image), another
// status, or an error.
package loadgen

import (
	"context"
	"crypto/tls"
	_ "embed" // for image.jpg
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a Config.
const (
	MaxClients  = 4096    // of Clients and of MaxInFlight
	MaxRate     = 100_000 // requests per second
	MaxDuration = time.Hour
)

// DefaultImage is sent if a Config has no images: testdata/pictures/jpeg-large.jpg, 590x480. Its licence is in
// testdata/pictures/LICENSES.md.
//
//go:embed image.jpg
var DefaultImage []byte

// A Config describes what to send where, how often and for how long.
type Config struct {
	URL    string   // http or https
	Method string   // PUT or POST
	Images [][]byte // sent in turn, or bodies of Form; empty: DefaultImage

	// Rate is the mean number of requests per second of an open loop, at most MaxRate; 0: a closed loop.
	Rate float64
	// Clients is the number of clients of a closed loop: 1 to MaxClients.
	Clients int
	// MaxInFlight is the maximum number of requests in flight in an open loop: 1 to MaxClients. A request beyond it isn't
	// sent and counts as failed.
	MaxInFlight int
	// Seed determines the start times of the requests of an open loop: the same for the same seed and rate.
	Seed uint64

	// WarmUp, 0 to MaxDuration, precedes the window; requests that start in it aren't counted.
	WarmUp time.Duration
	// Duration is the length of the window, up to MaxDuration.
	Duration time.Duration
	// Requests ends the window when this many requests have been counted and completed; 0: no limit.
	Requests int
	// RequestTimeout is the time limit from sending a request to the end of the response, up to MaxDuration.
	RequestTimeout time.Duration

	// Dial opens connections; nil: TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Validate returns an error for the first field that is out of range.
func (c *Config) Validate() error {
	if _, err := c.target(); err != nil {
		return err
	}
	switch {
	case c.Method != http.MethodPut && c.Method != http.MethodPost:
		return fmt.Errorf("method %q: must be PUT or POST", c.Method)
	case !(c.Rate >= 0 && c.Rate <= MaxRate): // NaN too
		return fmt.Errorf("rate %v: must be 0 (closed loop) or above, at most %d requests per second", c.Rate, MaxRate)
	case !c.open() && (c.Clients < 1 || c.Clients > MaxClients):
		return fmt.Errorf("clients %d: must be 1 to %d", c.Clients, MaxClients)
	case c.open() && (c.MaxInFlight < 1 || c.MaxInFlight > MaxClients):
		return fmt.Errorf("max in flight %d: must be 1 to %d", c.MaxInFlight, MaxClients)
	case c.WarmUp < 0 || c.WarmUp > MaxDuration:
		return fmt.Errorf("warm-up %v: must be 0s to %v", c.WarmUp, MaxDuration)
	case c.Duration <= 0 || c.Duration > MaxDuration:
		return fmt.Errorf("duration %v: must be above 0s and at most %v", c.Duration, MaxDuration)
	case c.Requests < 0:
		return fmt.Errorf("requests %d: must be 0 (no limit) or more", c.Requests)
	case c.RequestTimeout <= 0 || c.RequestTimeout > MaxDuration:
		return fmt.Errorf("request timeout %v: must be above 0s and at most %v", c.RequestTimeout, MaxDuration)
	}
	return nil
}

func (c *Config) open() bool { return c.Rate > 0 }

// target returns the server that the URL names.
func (c *Config) target() (*target, error) {
	to, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("URL %q: %w", c.URL, errors.Unwrap(err))
	}
	if (to.Scheme != "http" && to.Scheme != "https") || to.Hostname() == "" || to.User != nil {
		return nil, fmt.Errorf("URL %q: write it like http://localhost:8000/image", c.URL)
	}
	t := &target{dial: c.Dial, timeout: c.RequestTimeout}
	if t.dial == nil {
		t.dial = (&net.Dialer{}).DialContext
	}
	port := to.Port()
	if to.Scheme == "https" {
		t.tls = &tls.Config{ServerName: to.Hostname(), MinVersion: tls.VersionTLS12}
	}
	if port == "" {
		port = to.Scheme // package net resolves both names to their ports
	}
	t.address = net.JoinHostPort(to.Hostname(), port)
	return t, nil
}

// A run is the state of one Run. Times are durations since its start.
type run struct {
	config   Config
	target   *target
	requests [][]byte // whole requests, one for each image
	checker  *checker
	samples  chan []sample

	start      time.Time
	begin, end time.Duration // of the window

	counted atomic.Int64 // requests that started in the window; may exceed Config.Requests
	cutOff  atomic.Int64 // those of them that were in flight when the run was interrupted
}

// Run sends the load and returns the measurements, those so far if ctx ends. It calls progress, which may be nil, once a
// second from another goroutine. Its errors are those of Validate: whatever the server does is part of the result. After
// the window it waits for the requests in flight, at most for Config.RequestTimeout.
func Run(ctx context.Context, config Config, progress func(Progress)) (*Result, error) {
	r, err := newRun(config)
	if err != nil {
		return nil, err
	}
	record := newRecord(r.begin, r.end)
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		record.collect(r.samples, r.elapsed, progress)
	}()
	measuring, stopMeasuring := context.WithCancel(ctx)
	defer stopMeasuring()
	measured := make(chan selfMeasurement, 1)
	go func() { measured <- r.measureSelf(measuring) }()

	if config.open() {
		r.openLoop(ctx)
	} else {
		r.closedLoop(ctx)
	}
	ended := r.elapsed()
	stopMeasuring()
	close(r.samples)
	<-collected
	return r.result(record, <-measured, ended, ctx.Err() != nil), nil
}

func newRun(config Config) (*run, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if len(config.Images) == 0 {
		config.Images = [][]byte{DefaultImage}
	}
	to, err := config.target()
	if err != nil {
		return nil, err
	}
	r := &run{
		config: config, target: to, checker: newChecker(len(config.Images)), samples: make(chan []sample, 256),
		start: time.Now(), begin: config.WarmUp, end: config.WarmUp + config.Duration,
	}
	for _, image := range config.Images {
		request, err := encodeRequest(config.Method, config.URL, image)
		if err != nil {
			return nil, err
		}
		r.requests = append(r.requests, request)
	}
	return r, nil
}

func (r *run) elapsed() time.Duration { return time.Since(r.start) }

// closedLoop sends the requests of a closed loop. It returns when all clients have their last responses.
func (r *run) closedLoop(ctx context.Context) {
	var clients sync.WaitGroup
	for number := range r.config.Clients {
		clients.Go(func() {
			c := r.newClient()
			defer c.close()
			for turn := number; ctx.Err() == nil; turn++ {
				now := r.elapsed()
				if !r.admit(now) {
					return
				}
				if c.request(ctx, now, turn) == unreachable {
					// A connection is refused at once. Without a pause the clients would use all cores.
					r.sleepUntil(ctx, r.elapsed()+100*time.Millisecond)
				}
			}
		})
	}
	clients.Wait()
}

// An arrival is a request of an open loop.
type arrival struct {
	intended time.Duration
	number   int
}

// openLoop sends the requests of an open loop. It returns when all of them have their responses. It starts a client when a
// request is due and no client is idle, so that no request waits for the response to another one.
func (r *run) openLoop(ctx context.Context) {
	schedule := newSchedule(r.config.Rate, r.config.Seed)
	idle := make(chan arrival) // from which idle clients receive
	dropped := sampleBuffer{out: r.samples}
	var clients sync.WaitGroup
	defer clients.Wait()
	defer dropped.flush()
	defer close(idle)
	for started, number := 0, 0; ; number++ {
		a := arrival{schedule.next(), number}
		if !r.sleepUntil(ctx, min(a.intended, r.end)) || !r.admit(a.intended) {
			return
		}
		select {
		case idle <- a:
			continue
		default:
		}
		if started == r.config.MaxInFlight {
			dropped.add(sample{intended: a.intended, sent: a.intended, ended: r.elapsed(), failure: notSent})
			continue
		}
		started++
		clients.Go(func() {
			c := r.newClient()
			defer c.close()
			c.request(ctx, a.intended, a.number)
			for next := range idle {
				c.request(ctx, next.intended, next.number)
			}
		})
	}
}

// admit reports whether a request may start at this time, and counts it if so.
func (r *run) admit(at time.Duration) bool {
	if at >= r.end {
		return false
	}
	return at < r.begin || r.counted.Add(1) <= int64(r.config.Requests) || r.config.Requests == 0
}

// sleepUntil returns false if ctx ended before that time.
func (r *run) sleepUntil(ctx context.Context, at time.Duration) bool {
	wait := at - r.elapsed()
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
