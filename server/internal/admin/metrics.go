package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

// A collector reports the server to Prometheus as it is at the time of a scrape.
type collector struct{ config *Config }

// The metrics of a collector.
var (
	loadsMetric = collected.define("counter", "torchherd_model_loads_total",
		"Loads of a model's version, by outcome: ready or failed.", "model", "outcome")
	modelReadyMetric = collected.define("gauge", "torchherd_model_ready",
		"1 if a version of the model accepts requests, 0 if none does.", "model")
	readyMetric = collected.define("gauge", "torchherd_model_version_ready",
		"1 for each version that accepts requests.", "model", "version")
	weightsMetric = collected.define("gauge", "torchherd_model_weights_bytes",
		"Memory of the weights of a version that accepts requests, all instances together.", "model", "version")
	runnersMetric = collected.define("gauge", "torchherd_runners",
		"Batches of a version that can run at the same time.", "model", "version")
	queueMetric = collected.define("gauge", "torchherd_queue_images",
		"Images that have a place in a version's queue.", "model", "version")
	queueLimitMetric = collected.define("gauge", "torchherd_queue_limit_images",
		"Places of a version's queue.", "model", "version")
	inFlightMetric = collected.define("gauge", "torchherd_requests_in_flight",
		"Requests for images that are being received, queued, processed or answered.")
	memoryMetric = collected.define("gauge", "torchherd_reserved_memory_bytes",
		"Memory that is reserved for decoding images, and for the bodies that are being received.", "for")
	memoryLimitMetric = collected.define("gauge", "torchherd_reserved_memory_limit_bytes",
		"Memory that can be reserved: --max-decode-memory and --max-receive-memory.", "for")
	shareMetric = collected.define("gauge", "torchherd_candidate_share_ratio",
		"Share of the clients that the candidate answers.", "model", "version")
	requestsMetric = collected.define("gauge", "torchherd_candidate_requests",
		"Requests that the candidate has processed in this step, by outcome: answered or failed.", "model", "version", "outcome")
	latencyMetric = collected.define("gauge", "torchherd_candidate_latency_seconds",
		"Latencies since the candidate came, by version (candidate or serving) and quantile.", "model", "version", "of", "quantile")
	pairsMetric = collected.define("gauge", "torchherd_candidate_pairs",
		"Requests that were sampled, by outcome: compared, failed or skipped.", "model", "version", "outcome")
	psnrMetric = collected.define("gauge", "torchherd_candidate_psnr_decibels",
		"PSNR of the candidate's results against the serving version's: of all pairs together, and of the worst.", "model", "version", "of")
)

// descriptions are those of a collector's metrics.
type descriptions []*prometheus.Desc

var collected descriptions

func (d *descriptions) define(kind, name, help string, labels ...string) *prometheus.Desc {
	desc := metrics.Define(kind, name, help, labels...).Desc()
	*d = append(*d, desc)
	return desc
}

// Describe is the method of prometheus.Collector.
func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range collected {
		to <- desc
	}
}

// Collect is the method of prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(metric *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(metric, prometheus.GaugeValue, value, labels...)
	}
	gauge(inFlightMetric, float64(c.config.InFlight()))
	gauge(memoryMetric, float64(c.config.Decoding.Used()), "decoding")
	gauge(memoryMetric, float64(c.config.Received.Used()), "bodies")
	gauge(memoryLimitMetric, float64(c.config.Decoding.Size()), "decoding")
	gauge(memoryLimitMetric, float64(c.config.Received.Size()), "bodies")
	for _, model := range c.config.Models {
		name, counts := model.Name(), model.Counts()
		to <- prometheus.MustNewConstMetric(loadsMetric, prometheus.CounterValue, float64(counts.Succeeded), name, "ready")
		to <- prometheus.MustNewConstMetric(loadsMetric, prometheus.CounterValue, float64(counts.Failed), name, "failed")
		versions := model.ReadyVersions()
		gauge(modelReadyMetric, float64(min(1, len(versions))), name)
		for _, v := range versions {
			gauge(readyMetric, 1, name, v.Version)
			gauge(weightsMetric, float64(v.Bytes*int64(v.Instances)), name, v.Version)
			gauge(runnersMetric, float64(v.Instances), name, v.Version)
			gauge(queueMetric, float64(v.Waiting), name, v.Version)
			gauge(queueLimitMetric, float64(v.Settings.MaxQueueSize), name, v.Version)
		}
		if following, ok := c.config.Rollouts[name]; ok {
			collectRollout(to, name, following.Report())
		}
	}
}

// collectRollout reports a candidate while there is one.
func collectRollout(to chan<- prometheus.Metric, model string, r *rollout.Report) {
	if r == nil || r.Outcome != "" {
		return
	}
	gauge := func(metric *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(metric, prometheus.GaugeValue, value, append([]string{model, r.Version}, labels...)...)
	}
	gauge(shareMetric, r.Share)
	gauge(requestsMetric, float64(r.Candidate.Requests-r.Candidate.Errors), "answered")
	gauge(requestsMetric, float64(r.Candidate.Errors), "failed")
	for of, traffic := range map[string]rollout.Traffic{"candidate": r.Candidate, "serving": r.Serving} {
		gauge(latencyMetric, traffic.P50/1000, of, "0.5")
		gauge(latencyMetric, traffic.P99/1000, of, "0.99")
	}
	gauge(pairsMetric, float64(r.Pairs), "compared")
	gauge(pairsMetric, float64(r.Failures), "failed")
	gauge(pairsMetric, float64(r.Skipped), "skipped")
	if r.PSNR != nil {
		gauge(psnrMetric, *r.PSNR, "all")
		gauge(psnrMetric, *r.WorstPSNR, "worst")
	}
}
