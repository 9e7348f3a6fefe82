package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

// A collector reports the models to Prometheus as they are at the time of a scrape.
type collector struct {
	models   lifecycle.Models
	rollouts map[string]*rollout.Controller
}

var (
	loadsMetric = prometheus.NewDesc("torchherd_model_loads_total",
		"Loads of a model's version, by outcome: ready or failed.", []string{"model", "outcome"}, nil)
	versionsMetric = prometheus.NewDesc("torchherd_model_version_ready",
		"1 for each version that accepts requests.", []string{"model", "version"}, nil)
	candidateLabels = []string{"model", "version"}
	shareMetric     = prometheus.NewDesc("torchherd_candidate_share_ratio",
		"Share of the clients that the candidate answers.", candidateLabels, nil)
	requestsMetric = prometheus.NewDesc("torchherd_candidate_requests",
		"Requests that the candidate has processed in this step, by outcome: answered or failed.", append(candidateLabels, "outcome"), nil)
	latencyMetric = prometheus.NewDesc("torchherd_candidate_latency_seconds",
		"Latencies since the candidate came, by version (candidate or serving) and quantile.", append(candidateLabels, "of", "quantile"), nil)
	pairsMetric = prometheus.NewDesc("torchherd_candidate_pairs",
		"Requests that were sampled, by outcome: compared, failed or skipped.", append(candidateLabels, "outcome"), nil)
	psnrMetric = prometheus.NewDesc("torchherd_candidate_psnr_decibels",
		"PSNR of the candidate's results against the serving version's: of all pairs together, and of the worst.", append(candidateLabels, "of"), nil)
)

// Describe is the method of prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- loadsMetric
	to <- versionsMetric
	for _, metric := range []*prometheus.Desc{shareMetric, requestsMetric, latencyMetric, pairsMetric, psnrMetric} {
		to <- metric
	}
}

// Collect is the method of prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	for _, model := range c.models {
		counts := model.Counts()
		to <- prometheus.MustNewConstMetric(loadsMetric, prometheus.CounterValue, float64(counts.Succeeded), model.Name(), "ready")
		to <- prometheus.MustNewConstMetric(loadsMetric, prometheus.CounterValue, float64(counts.Failed), model.Name(), "failed")
		for _, status := range model.Statuses() {
			if status.State == lifecycle.Ready {
				to <- prometheus.MustNewConstMetric(versionsMetric, prometheus.GaugeValue, 1, model.Name(), strconv.Itoa(status.Version))
			}
		}
		if following, ok := c.rollouts[model.Name()]; ok {
			collectRollout(to, model.Name(), following.Report())
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
