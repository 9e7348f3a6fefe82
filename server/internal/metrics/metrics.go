// Package metrics counts what the server does, for Prometheus. Each metric is defined once, in this file or in package admin
// (what the models are at the time of a scrape); docs/metrics.md is generated from the definitions.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// An Outcome is what became of a request.
type Outcome string

// The outcomes. Each request has one.
const (
	Answered Outcome = "answered" // with an image
	Refused  Outcome = "refused"  // because of the server's state: no place, no memory, not ready, draining
	Rejected Outcome = "rejected" // because of the request itself: no image, too large, a wrong parameter
	Expired  Outcome = "expired"  // its deadline passed
	Left     Outcome = "left"     // its client closed the connection
	Failed   Outcome = "failed"   // the model or the server failed on it
)

// Stages is the number of stages of a request.
const Stages = 5

// StageNames are the names of the stages, in their order.
var StageNames = [Stages]string{"receive", "decode", "queue", "forward", "encode"}

// A Definition is what the documentation says of a metric.
type Definition struct {
	Name, Type, Help string
	Labels           []string
}

// definitions are all that Define has returned.
var definitions []Definition

// Definitions returns all definitions of this program. Those of Prometheus's own collectors (go_*, process_*) are not among
// them.
func Definitions() []Definition { return definitions }

// Define records the definition of a metric; kind is counter, gauge or histogram. It is for the initialization of packages.
func Define(kind, name, help string, labels ...string) Definition {
	d := Definition{name, kind, help, labels}
	definitions = append(definitions, d)
	return d
}

// Desc returns the definition as a collector wants it.
func (d Definition) Desc() *prometheus.Desc { return prometheus.NewDesc(d.Name, d.Help, d.Labels, nil) }

var (
	requestsTotal = Define("counter", "torchherd_requests_total",
		"Requests other than health checks, by outcome: answered (with an image), refused (for the server's state), rejected (for the request itself), expired (its deadline passed), left (its client has gone) or failed (the model or the server failed). The model and the version are empty if the request didn't reach one; of each model the 8 newest versions are kept.",
		"model", "version", "outcome")
	errorsTotal = Define("counter", "torchherd_request_errors_total",
		"Requests that got no image, by the reason.",
		"model", "reason")
	requestSeconds = Define("histogram", "torchherd_request_duration_seconds",
		"Time from a request's header to the end of its response, of requests that were answered with an image.",
		"model")
	stageSeconds = Define("histogram", "torchherd_stage_duration_seconds",
		"Time that a request spent in a stage: receive, decode, queue (waiting for its batch to start), forward (the batch's, from pixels to pixels) or encode. Stages that a request didn't reach aren't counted.",
		"model", "stage")
	batchSize = Define("histogram", "torchherd_batch_size",
		"Images in a batch, once for each batch.",
		"model")
	busySeconds = Define("counter", "torchherd_runner_busy_seconds_total",
		"Time that the model's runners spent with batches, all runners together. Divided by the time and by torchherd_runners it is their busy share.",
		"model")
	receivedBytes = Define("counter", "torchherd_received_bytes_total",
		"Bytes of the bodies of requests for images, as far as they were read.",
		"model")
	sentBytes = Define("counter", "torchherd_sent_bytes_total",
		"Bytes of the bodies of responses to requests for images.",
		"model")
	buildInfo = Define("gauge", "torchherd_build_info",
		"Always 1; the labels say which program this is.",
		"version", "libtorch", "libjpeg_turbo", "go")
)

func (d Definition) counters() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.Name, Help: d.Help}, d.Labels)
}

// nativeFactor bounds the width of a native histogram's buckets: each ends at most 10 % above its beginning.
const nativeFactor = 1.1

// nativeBuckets bounds the memory of a native histogram. With more buckets it becomes coarser.
const nativeBuckets = 160

// histograms returns histograms with these buckets, and with native ones for a Prometheus that asks for them.
func (d Definition) histograms(buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: d.Name, Help: d.Help, Buckets: buckets,
		NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: nativeBuckets,
		NativeHistogramMinResetDuration: time.Hour,
	}, d.Labels)
}

// durations are the classic buckets of durations, in seconds: from a small image's decoding to the default limit of a
// request.
var durations = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// sizes are the classic buckets of batch sizes.
var sizes = []float64{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128}

// Metrics are the metrics of a server. They are safe for concurrent use.
type Metrics struct {
	registry       *prometheus.Registry
	requests       *prometheus.CounterVec
	errors         *prometheus.CounterVec
	duration       *prometheus.HistogramVec
	stages         *prometheus.HistogramVec
	batches        *prometheus.HistogramVec
	busy           *prometheus.CounterVec
	received, sent *prometheus.CounterVec

	mu       sync.Mutex
	handles  map[string]map[string]*handles // by model and version
	versions map[string][]string            // that have handles, the first one first
}

// Build says which program a server is.
type Build struct{ Version, LibTorch, JPEG, Go string }

// New returns the metrics of a server.
func New(b Build) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(), handles: map[string]map[string]*handles{}, versions: map[string][]string{},
		requests: requestsTotal.counters(), errors: errorsTotal.counters(),
		duration: requestSeconds.histograms(durations), stages: stageSeconds.histograms(durations),
		batches: batchSize.histograms(sizes), busy: busySeconds.counters(),
		received: receivedBytes.counters(), sent: sentBytes.counters(),
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: buildInfo.Name, Help: buildInfo.Help}, buildInfo.Labels)
	info.WithLabelValues(b.Version, b.LibTorch, b.JPEG, b.Go).Set(1)
	m.registry.MustRegister(m.requests, m.errors, m.duration, m.stages, m.batches, m.busy, m.received, m.sent, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Registry has all metrics. Other packages register their own with it, and serve it.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// A Request is what is counted of a request.
type Request struct {
	Model, Version string  // that it reached; empty: none
	Reason         *Reason // why it got no image; nil: it got one
	Duration       time.Duration
	Received, Sent int64 // bytes
	// Stages are how long each stage took, in the order of StageNames; 0: it wasn't reached.
	Stages [Stages]time.Duration
}

// Request counts a request that is done.
func (m *Metrics) Request(r *Request) {
	h := m.handlesOf(r.Model, r.Version)
	h.received.Add(float64(r.Received))
	h.sent.Add(float64(r.Sent))
	for i, took := range r.Stages {
		if took > 0 {
			h.stages[i].Observe(took.Seconds())
		}
	}
	if r.Reason == nil {
		h.answered.Inc()
		h.duration.Observe(r.Duration.Seconds())
		return
	}
	m.requests.WithLabelValues(r.Model, r.Version, string(r.Reason.Outcome)).Inc()
	m.errors.WithLabelValues(r.Model, r.Reason.Name).Inc()
}

// handles are the metrics of the requests that a version answers. To look them up by their labels would allocate memory for
// each request.
type handles struct {
	answered       prometheus.Counter
	duration       prometheus.Observer
	stages         [Stages]prometheus.Observer
	received, sent prometheus.Counter
}

// versionsKept is how many versions of a model have counters. Each new version adds some, and a server may live long.
const versionsKept = 8

func (m *Metrics) handlesOf(model, version string) *handles {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.handles[model][version]; ok {
		return h
	}
	h := &handles{
		answered: m.requests.WithLabelValues(model, version, string(Answered)), duration: m.duration.WithLabelValues(model),
		received: m.received.WithLabelValues(model), sent: m.sent.WithLabelValues(model),
	}
	for i, name := range StageNames {
		h.stages[i] = m.stages.WithLabelValues(model, name)
	}
	if m.handles[model] == nil {
		m.handles[model] = map[string]*handles{}
	}
	m.handles[model][version] = h
	m.versions[model] = append(m.versions[model], version)
	if known := m.versions[model]; len(known) > versionsKept {
		m.requests.DeletePartialMatch(prometheus.Labels{"model": model, "version": known[0]})
		delete(m.handles[model], known[0])
		m.versions[model] = known[1:]
	}
	return h
}

// Model returns what counts the batches of a model, of all its versions; nil for nil.
func (m *Metrics) Model(name string) *Model {
	if m == nil {
		return nil
	}
	return &Model{m.batches.WithLabelValues(name), m.busy.WithLabelValues(name)}
}

// A Model counts the batches of a model. A nil *Model counts nothing.
type Model struct {
	batches prometheus.Observer
	busy    prometheus.Counter
}

// Batch counts a batch of size images, which took a runner this time.
func (m *Model) Batch(size int, took time.Duration) {
	if m == nil {
		return
	}
	m.batches.Observe(float64(size))
	m.busy.Add(took.Seconds())
}
