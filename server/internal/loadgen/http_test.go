package loadgen_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// These tests use sockets. They don't assert how long anything takes.

// send runs a load against a server with this handler, which is called after the request has been read.
func send(t *testing.T, config loadgen.Config, handler http.HandlerFunc) *loadgen.Result {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		handler(w, r)
	}))
	defer server.Close()
	config.URL = server.URL + "/image"
	return run(t, config)
}

func run(t *testing.T, config loadgen.Config) *loadgen.Result {
	t.Helper()
	r, err := loadgen.Run(t.Context(), config, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// counted returns a closed loop with this number of requests.
func counted(clients, requests int) loadgen.Config {
	c := closed(clients)
	c.Duration, c.Requests = time.Minute, requests
	return c
}

// respond returns a handler that sends these bytes with status 200.
func respond(body []byte) http.HandlerFunc { return respondWith(http.StatusOK, body) }

// respondWith is respond for any status.
func respondWith(code int, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write(body)
	}
}

// hangUp returns a handler that hijacks the connection, sends the text and closes the connection.
func hangUp(t *testing.T, text string, reset bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, text)
		if reset {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		_ = conn.Close()
	}
}

func TestResponsesAreClassified(t *testing.T) {
	photograph := goldens.Read(t, "pictures/jpeg-small.jpg")
	damaged := slices.Concat(photograph[:len(photograph)/2], []byte{0xff, 0xd9})
	const beginning = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc"
	webp := goldens.Read(t, "pictures/webp-lossless.webp")
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		good    int
		status  int    // 0: no response
		failure string // a prefix of the error text; "": any
	}{
		"JPEG":         {respond(photograph), 4, 200, ""},
		"PNG":          {respond(goldens.Read(t, "pictures/png-rgb.png")), 4, 200, ""},
		"WebP":         {respond(webp), 4, 200, ""},
		"201":          {respondWith(http.StatusCreated, photograph), 4, 201, ""},
		"503":          {respondWith(http.StatusServiceUnavailable, []byte("I'm too busy")), 0, 503, ""},
		"image of 500": {respondWith(http.StatusInternalServerError, photograph), 0, 500, ""},
		"closing": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			_, _ = w.Write(photograph)
		}, 4, 200, ""},
		"text":          {respond([]byte(`{"error": "no model"}`)), 0, 200, "the response isn't a JPEG, PNG, WebP or AVIF"},
		"empty":         {respond(nil), 0, 200, "the response isn't a JPEG, PNG, WebP or AVIF"},
		"half a JPEG":   {respond(photograph[:len(photograph)/2]), 0, 200, "the response is a truncated JPEG"},
		"half a WebP":   {respond(webp[:len(webp)/2]), 0, 200, "the response is a truncated WebP"},
		"invalid JPEG":  {respond(damaged), 0, 200, "the response is an invalid JPEG: "},
		"closed before": {hangUp(t, "", false), 0, 0, "connection closed before the response"},
		"closed during": {hangUp(t, beginning, false), 0, 0, "connection closed during the response"},
		"reset":         {hangUp(t, "", true), 0, 0, "read: connection reset by peer"},
		"no HTTP":       {hangUp(t, "hello\r\n\r\n", false), 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := send(t, counted(2, 4), test.handler)
			if r.Requests != 4 || r.Good != test.good {
				t.Errorf("%d of %d requests were good", r.Good, r.Requests)
			}
			if test.status != 0 && !maps.Equal(r.Statuses, map[int]int{test.status: 4}) || test.status == 0 &&
				len(r.Statuses) != 0 {
				t.Errorf("statuses %v", r.Statuses)
			}
			failed := 0
			for text, count := range r.Errors {
				failed += count
				if !strings.HasPrefix(text, test.failure) {
					t.Errorf("unexpected error %q", text)
				}
			}
			if bad := r.Requests - r.Good; test.status < 300 && failed != bad || test.status >= 300 && failed != 0 {
				t.Errorf("%d bad responses, errors %v", bad, r.Errors)
			}
			if got := r.Throughput; r.Good > 0 && !slices.Equal(got[:1], []int{r.Good}) {
				t.Errorf("throughput %v", got)
			}
		})
	}
}

func TestRequestsAreNotRetried(t *testing.T) {
	var arrived atomic.Int64
	reset := hangUp(t, "", true)
	r := send(t, counted(4, 40), func(w http.ResponseWriter, r *http.Request) {
		if arrived.Add(1)%2 == 0 {
			reset(w, r)
			return
		}
		_, _ = w.Write(tiny)
	})
	if n := arrived.Load(); n != 40 || r.Requests != 40 || r.Good != 20 ||
		r.Errors["read: connection reset by peer"] != 20 {
		t.Errorf("%d arrived: %+v", n, r)
	}
}

func TestRequestTimeout(t *testing.T) {
	config := counted(1, 2)
	config.RequestTimeout = 20 * time.Millisecond
	r := send(t, config, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if r.Requests != 2 || r.Errors["no complete response in time"] != 2 {
		t.Errorf("%+v", r)
	}
}

func TestConnectionRefused(t *testing.T) {
	server := httptest.NewServer(nil)
	config := counted(2, 3)
	config.URL = server.URL
	server.Close()
	if r := run(t, config); r.Good != 0 || r.Errors["connect: dial: connection refused"] != 3 {
		t.Errorf("%+v", r)
	}
}

func TestUntrustedCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(respond(tiny))
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	config := counted(1, 1)
	config.URL = server.URL
	r := run(t, config)
	for text := range r.Errors {
		if !strings.Contains(text, "certificate") {
			t.Error(text)
		}
	}
	if r.Good != 0 || len(r.Errors) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestImagesAreSentInTurnAndUnchanged(t *testing.T) {
	config := counted(1, 6)
	config.Method = http.MethodPost
	config.Images = [][]byte{tiny, goldens.Read(t, "pictures/png-rgb.png"), []byte("anything")}
	types := []string{"image/jpeg", "image/png", "text/plain; charset=utf-8"}
	var mu sync.Mutex
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.RequestURI() != "/predictions/a?b=c" {
			t.Error(r.Method, r.URL, err)
		}
		mu.Lock()
		at := len(got) % 3
		got = append(got, string(body))
		mu.Unlock()
		if !bytes.Equal(body, config.Images[at]) || r.Header.Get("Content-Type") != types[at] {
			t.Errorf("image %d arrived as %s of %d bytes", at, r.Header.Get("Content-Type"), len(body))
		}
		_, _ = w.Write(tiny)
	}))
	defer server.Close()
	config.URL = server.URL + "/predictions/a?b=c"
	if r := run(t, config); r.Good != 6 || len(got) != 6 {
		t.Errorf("%+v", r)
	}
}

func TestDefaultImage(t *testing.T) {
	if !bytes.Equal(loadgen.DefaultImage, goldens.Read(t, "pictures/jpeg-large.jpg")) {
		t.Error("image.jpg differs from testdata/pictures/jpeg-large.jpg, whose licence applies to it")
	}
}

func TestServerTiming(t *testing.T) {
	var number atomic.Int64
	r := send(t, counted(1, 10), func(w http.ResponseWriter, _ *http.Request) {
		size := "2"
		if number.Add(1) > 7 {
			size = "3"
		}
		w.Header().Set("Server-Timing", `decode;dur=1.250, forward;dur=40, cache;desc="hit", batch;desc="`+size+`"`)
		_, _ = w.Write(tiny)
	})
	if !maps.Equal(r.BatchSizes, map[int]int{2: 7, 3: 3}) {
		t.Errorf("batches %v", r.BatchSizes)
	}
	if d, f := r.Stages["decode"], r.Stages["forward"]; len(r.Stages) != 2 || !near(d.P50, 1.25) ||
		!near(d.Mean, 1.25) || !near(f.P99, 40) {
		t.Errorf("stages %+v", r.Stages)
	}
}

func TestJSON(t *testing.T) {
	r := send(t, counted(1, 2), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server-Timing", `decode;dur=1.250, batch;desc="1"`)
		_, _ = w.Write(tiny)
	})
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"url", "mode", "clients", "rate", "seconds", "requests", "good", "goodput", "statuses/200", "errors",
		"latency_ms/mean", "latency_ms/p50", "latency_ms/p90", "latency_ms/p95",
		"latency_ms/p99", "latency_ms/p99_9", "latency_ms/max",
		"batch_sizes/1", "stages_ms/decode/mean", "stages_ms/decode/p50", "stages_ms/decode/p99",
		"behind/late", "behind/worst_ms", "behind/fell_behind", "behind/why", "throughput", "interrupted", "cut_off",
	} {
		var at any = got
		for _, key := range strings.Split(path, "/") {
			object, _ := at.(map[string]any)
			at = object[key]
		}
		if at == nil {
			t.Errorf("no %s in %s", path, text)
		}
	}
}

func TestInvalidConfigurations(t *testing.T) {
	for want, change := range map[string]func(*loadgen.Config){
		"write it like http://":   func(c *loadgen.Config) { c.URL = "localhost:8000/image" },
		"missing protocol scheme": func(c *loadgen.Config) { c.URL = "://" },
		"PUT or POST":             func(c *loadgen.Config) { c.Method = "GET" },
		"clients 0":               func(c *loadgen.Config) { c.Clients = 0 },
		"clients 5000":            func(c *loadgen.Config) { c.Clients = 5000 },
		"rate -1":                 func(c *loadgen.Config) { c.Rate = -1 },
		"rate 1e+06":              func(c *loadgen.Config) { c.Rate = 1e6 },
		"max in flight 0":         func(c *loadgen.Config) { c.Rate, c.MaxInFlight = 1, 0 },
		"duration 0s":             func(c *loadgen.Config) { c.Duration = 0 },
		"duration 2h":             func(c *loadgen.Config) { c.Duration = 2 * time.Hour },
		"warm-up -1s":             func(c *loadgen.Config) { c.WarmUp = -time.Second },
		"requests -1":             func(c *loadgen.Config) { c.Requests = -1 },
		"request timeout 0s":      func(c *loadgen.Config) { c.RequestTimeout = 0 },
	} {
		config := closed(1)
		change(&config)
		if _, err := loadgen.Run(t.Context(), config, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
