// Package loadgen sends pictures to an image-to-image server and measures its answers.
//
// In a closed loop each client sends its next request when it has its answer; that finds a server's throughput. In an
// open loop requests begin at the times of a Poisson process, whatever the server does; that finds its latency at a
// rate. There a latency counts from the intended start, so that a server that stalls can't hide the requests which it
// kept from being sent (Gil Tene calls that coordinated omission).
//
// Nothing is tried again. What a request came to is one of three: a good answer (2xx and a whole picture), another
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
	MaxRate     = 100_000 // requests a second
	MaxDuration = time.Hour
)

// DefaultImage is what is sent where no pictures are given: testdata/pictures/jpeg-large.jpg, 590x480, whose licence
// stands in LICENSES.md there.
//
//go:embed image.jpg
var DefaultImage []byte

// A Config says what to send where, how often and for how long.
type Config struct {
	URL    string   // http or https
	Method string   // PUT or POST
	Images [][]byte // sent in turn; none: DefaultImage

	// Rate is the mean number of requests a second in an open loop, at most MaxRate; 0: a closed loop.
	Rate float64
	// Clients is how many clients a closed loop has: 1 to MaxClients.
	Clients int
	// MaxInFlight is how many requests of an open loop may wait for their answers: 1 to MaxClients. One that would be
	// more isn't sent and counts as failed.
	MaxInFlight int
	// Seed chooses the times at which the requests of an open loop begin: the same ones for the same seed and rate.
	Seed uint64

	// WarmUp, 0 to MaxDuration, comes before the window; requests that begin in it aren't counted.
	WarmUp time.Duration
	// Duration is the window's length, up to MaxDuration.
	Duration time.Duration
	// Requests ends the window when so many were counted and answered; 0: only Duration does.
	Requests int
	// RequestTimeout is how long a request may take from its sending to the end of its answer, up to MaxDuration.
	RequestTimeout time.Duration

	// Dial opens connections; nil: by TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Validate says what is wrong with the configuration, if anything is.
func (c *Config) Validate() error {
	if _, err := c.target(); err != nil {
		return err
	}
	switch {
	case c.Method != http.MethodPut && c.Method != http.MethodPost:
		return fmt.Errorf("method %q: it must be PUT or POST", c.Method)
	case !(c.Rate >= 0 && c.Rate <= MaxRate): // NaN too
		return fmt.Errorf("rate %v: it must be 0 (closed loop) or above, at most %d requests a second", c.Rate, MaxRate)
	case !c.open() && (c.Clients < 1 || c.Clients > MaxClients):
		return fmt.Errorf("clients %d: there must be 1 to %d", c.Clients, MaxClients)
	case c.open() && (c.MaxInFlight < 1 || c.MaxInFlight > MaxClients):
		return fmt.Errorf("max in flight %d: it must be 1 to %d", c.MaxInFlight, MaxClients)
	case c.WarmUp < 0 || c.WarmUp > MaxDuration:
		return fmt.Errorf("warm-up %v: it must be 0s to %v", c.WarmUp, MaxDuration)
	case c.Duration <= 0 || c.Duration > MaxDuration:
		return fmt.Errorf("duration %v: it must be above 0s and at most %v", c.Duration, MaxDuration)
	case c.Requests < 0:
		return fmt.Errorf("requests %d: it must be 0 (no limit) or more", c.Requests)
	case c.RequestTimeout <= 0 || c.RequestTimeout > MaxDuration:
		return fmt.Errorf("request timeout %v: it must be above 0s and at most %v", c.RequestTimeout, MaxDuration)
	}
	return nil
}

func (c *Config) open() bool { return c.Rate > 0 }

// target is where the URL points to.
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
		port = to.Scheme // net knows both by name
	}
	t.address = net.JoinHostPort(to.Hostname(), port)
	return t, nil
}

// A run is a load while it lasts. Times are durations since its start.
type run struct {
	config   Config
	target   *target
	requests [][]byte // whole requests, one for each picture
	checker  *checker
	samples  chan []sample

	start      time.Time
	begin, end time.Duration // of the window

	counted atomic.Int64 // requests that began in the window, more than Config.Requests possibly
	cutOff  atomic.Int64 // those of them that were still waiting when the run was interrupted
}

// Run sends the load and returns what it measured; when ctx ends, what it measured until then. It calls progress (nil:
// none) once a second, from a goroutine of its own. The errors are those of Validate: whatever a server does is a
// result. After the window it waits for the answers to what was sent, which takes Config.RequestTimeout at most.
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
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watched := make(chan watch, 1)
	go func() { watched <- r.watch(watching) }()

	if config.open() {
		r.sendAtRate(ctx)
	} else {
		r.sendInTurns(ctx)
	}
	ended := r.elapsed()
	stopWatching()
	close(r.samples)
	<-collected
	return r.result(record, <-watched, ended, ctx.Err() != nil), nil
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
	for _, picture := range config.Images {
		request, err := writeRequest(config.Method, config.URL, picture)
		if err != nil {
			return nil, err
		}
		r.requests = append(r.requests, request)
	}
	return r, nil
}

func (r *run) elapsed() time.Duration { return time.Since(r.start) }

// sendInTurns is the closed loop. It returns when all clients have their last answers.
func (r *run) sendInTurns(ctx context.Context) {
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
					// A refused connection takes no time. Without a pause the clients would take the whole machine.
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

// sendAtRate is the open loop. It returns when all requests have their answers. A client is started when a request
// begins and no other client is idle, so no request waits for the answer of another one.
func (r *run) sendAtRate(ctx context.Context) {
	schedule := newSchedule(r.config.Rate, r.config.Seed)
	idle := make(chan arrival) // what an idle client receives
	dropped := journal{out: r.samples}
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

// admit says whether a request may begin at this time, and counts it if so.
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
