package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

// A collector reports the models to Prometheus as they are at the time of a scrape.
type collector struct{ models lifecycle.Models }

var (
	loadsMetric = prometheus.NewDesc("torchherd_model_loads_total",
		"Loads of a model's version, by outcome: ready or failed.", []string{"model", "outcome"}, nil)
	versionsMetric = prometheus.NewDesc("torchherd_model_version_ready",
		"1 for each version that accepts requests.", []string{"model", "version"}, nil)
)

// Describe is the method of prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- loadsMetric
	to <- versionsMetric
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
	}
}
