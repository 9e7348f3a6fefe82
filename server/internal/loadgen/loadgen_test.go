package loadgen_test

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// These tests run a server and the load in a synctest bubble: real HTTP over in-memory connections, with a fake clock that
// advances only while all goroutines are blocked. So their times are exact.

// limits returns a configuration that has neither clients nor a rate.
func limits() loadgen.Config {
	return loadgen.Config{
		URL: "http://server/image", Method: http.MethodPut, MaxInFlight: loadgen.MaxClients,
		Duration: time.Second, RequestTimeout: time.Minute,
	}
}

func closed(clients int) loadgen.Config {
	c := limits()
	c.Clients = clients
	return c
}

func open(rate float64) loadgen.Config {
	c := limits()
	c.Rate = rate
	return c
}

// A pipe is a listener for in-memory connections.
type pipe struct {
	connections chan net.Conn
	closed      context.Context
	close       context.CancelFunc
}

func newPipe() *pipe {
	closed, cancel := context.WithCancel(context.Background())
	return &pipe{make(chan net.Conn), closed, cancel}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.connections:
		return conn, nil
	case <-p.closed.Done():
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error   { p.close(); return nil }
func (p *pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.connections <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inBubble runs a load against a server in the bubble.
func inBubble(ctx context.Context, t *testing.T, config loadgen.Config, handler http.HandlerFunc) *loadgen.Result {
	t.Helper()
	result, _ := inBubbleWithProgress(ctx, t, config, handler)
	return result
}

func inBubbleWithProgress(
	ctx context.Context, t *testing.T, config loadgen.Config, handler http.HandlerFunc,
) (*loadgen.Result, []loadgen.Progress) {
	t.Helper()
	listener := newPipe()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Hour}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	config.Dial = listener.dial
	var reports []loadgen.Progress
	result, err := loadgen.Run(ctx, config, func(p loadgen.Progress) { reports = append(reports, p) })
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	<-served
	return result, reports
}

var tiny = encode()

func encode() []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, image.NewRGBA(image.Rect(0, 0, 8, 8)), nil); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// respondAfter returns a handler that takes this long for each image.
func respondAfter(d time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(d): // by the fake clock
			_, _ = w.Write(tiny)
		case <-r.Context().Done():
		}
	}
}

// near compares milliseconds to the three digits of a histogram.
func near(got, want float64) bool { return got >= want*0.999 && got <= want*1.001 }

func TestClosedLoopSendsTheNextRequestAfterTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := closed(2)
		config.WarmUp, config.Duration = time.Second, 3*time.Second
		r := inBubble(t.Context(), t, config, respondAfter(100*time.Millisecond))
		if r.Mode != loadgen.Closed || r.Clients != 2 || r.Seconds != 3 || r.Requests != 60 || r.Good != 60 ||
			r.Goodput != 20 {
			t.Errorf("%+v", r)
		}
		if !maps.Equal(r.Statuses, map[int]int{200: 60}) || len(r.Errors) != 0 ||
			!slices.Equal(r.Throughput, []int{20, 20, 20}) {
			t.Errorf("%v %v %v", r.Statuses, r.Errors, r.Throughput)
		}
		if l := r.Latency; !near(l.Mean, 100) || !near(l.P50, 100) || !near(l.P999, 100) || !near(l.Max, 100) {
			t.Errorf("latency %+v", l)
		}
		if r.Saturation.Late != 0 || r.Saturation.WorstMs != 0 {
			t.Errorf("late by a fake clock: %+v", r.Saturation)
		}
	})
}

// arrivals returns when the requests of a load arrive, since its start, at a handler that takes this long.
func arrivals(t *testing.T, config loadgen.Config, takes time.Duration) (at []time.Duration, r *loadgen.Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		start, respond := time.Now(), respondAfter(takes)
		r = inBubble(t.Context(), t, config, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			at = append(at, time.Since(start))
			mu.Unlock()
			respond(w, r)
		})
	})
	return at, r
}

func TestOpenLoopNeverWaitsForResponses(t *testing.T) {
	config := open(100)
	config.Duration, config.Seed = 2*time.Second, 7
	prompt, _ := arrivals(t, config, 0)
	stalled, r := arrivals(t, config, 30*time.Second)
	if len(prompt) < 100 || !slices.Equal(prompt, stalled) {
		t.Errorf("requests started at %v; with a stalled server at %v", prompt, stalled)
	}
	if r.Mode != loadgen.Open || r.Rate != 100 || r.Requests != len(stalled) || r.Good != len(stalled) ||
		r.Saturation.FellBehind {
		t.Errorf("%+v", r)
	}
	// All responses arrived after the window: they lower the goodput, but aren't failures.
	if r.Goodput != 0 || !near(r.Latency.P50, 30000) || r.Seconds != 2 {
		t.Errorf("%+v", r)
	}
	config.Seed = 8
	if other, _ := arrivals(t, config, 0); slices.Equal(prompt, other) {
		t.Error("another seed has the same times")
	}
}

func TestOpenLoopLimitsRequestsInFlight(t *testing.T) {
	config := open(100)
	config.MaxInFlight = 3
	at, r := arrivals(t, config, 10*time.Second)
	missing := r.Requests - 3
	if len(at) != 3 || r.Good != 3 || r.Requests < 50 ||
		!maps.Equal(r.Errors, map[string]int{"not sent: too many requests in flight": missing}) {
		t.Errorf("%d arrived: %+v", len(at), r)
	}
	if !r.Saturation.FellBehind || r.Saturation.NotSent != missing || r.Saturation.Reason == "" {
		t.Errorf("%+v", r.Saturation)
	}
}

func TestNumberOfRequestsEndsTheWindow(t *testing.T) {
	for name, config := range map[string]loadgen.Config{"closed": closed(4), "open": open(40)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config.Duration, config.WarmUp, config.Requests = time.Hour, time.Second, 50
				r := inBubble(t.Context(), t, config, respondAfter(100*time.Millisecond))
				if r.Requests != 50 || r.Good != 50 || r.Seconds > 10 || r.Interrupted {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

func TestRequestTimeoutByAFakeClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := closed(1)
		config.Duration, config.RequestTimeout = 10*time.Second, 5*time.Second
		r := inBubble(t.Context(), t, config, respondAfter(time.Minute))
		if r.Requests != 2 || r.Good != 0 || r.Errors["no complete response in time"] != 2 || len(r.Statuses) != 0 {
			t.Errorf("%+v", r)
		}
		if r.Goodput != 0 || r.Latency != (loadgen.Latency{}) {
			t.Errorf("figures without responses: %+v", r)
		}
	})
}

func TestInterruptedRunReturnsItsMeasurements(t *testing.T) {
	for name, config := range map[string]loadgen.Config{"closed": closed(4), "open": open(100)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(3450*time.Millisecond, cancel)
				config.Duration, config.WarmUp = time.Hour, time.Second
				r := inBubble(ctx, t, config, respondAfter(100*time.Millisecond))
				if !r.Interrupted || r.Seconds != 2.45 || r.Good == 0 || r.Good != r.Requests || r.CutOff == 0 ||
					len(r.Throughput) != 3 {
					t.Errorf("%+v", r)
				}
				if name == "closed" && (r.Good != 96 || r.CutOff != 4) {
					t.Errorf("%d good, %d cut off", r.Good, r.CutOff)
				}
			})
		})
	}
}

func TestProgressEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := closed(1)
		config.WarmUp, config.Duration = 1500*time.Millisecond, 2*time.Second
		_, reports := inBubbleWithProgress(t.Context(), t, config, respondAfter(100*time.Millisecond))
		if len(reports) != 3 || !reports[0].WarmingUp || reports[0].Requests != 0 || reports[1].WarmingUp ||
			reports[2].Elapsed != 3*time.Second {
			t.Fatalf("%+v", reports)
		}
		if p := reports[2]; p.Requests < 13 || p.Good != p.Requests || p.Failed != 0 || p.Goodput < 8 ||
			p.Goodput > 12 || !near(p.P50.Seconds(), 0.1) {
			t.Errorf("%+v", p)
		}
	})
}
