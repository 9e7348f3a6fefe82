package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/torchherd/torchherd/server/internal/model"
)

// A collector tells Prometheus of the models, as they are when it asks.
type collector struct{ models model.Models }

var (
	loadsMetric = prometheus.NewDesc("torchherd_model_loads_total",
		"Loads of a model's version, by their outcome: ready or failed.", []string{"model", "outcome"}, nil)
	versionsMetric = prometheus.NewDesc("torchherd_model_version_ready",
		"1 for each version that takes requests.", []string{"model", "version"}, nil)
)

// Describe is the prometheus.Collector's method.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- loadsMetric
	to <- versionsMetric
}

// Collect is the prometheus.Collector's method.
func (c collector) Collect(to chan<- prometheus.Metric) {
	for _, served := range c.models {
		loads := served.Loads()
		to <- prometheus.MustNewConstMetric(loadsMetric, prometheus.CounterValue, float64(loads.Succeeded), served.Name(), "ready")
		to <- prometheus.MustNewConstMetric(loadsMetric, prometheus.CounterValue, float64(loads.Failed), served.Name(), "failed")
		for _, status := range served.Statuses() {
			if status.State == model.Ready {
				to <- prometheus.MustNewConstMetric(versionsMetric, prometheus.GaugeValue, 1, served.Name(), strconv.Itoa(status.Version))
			}
		}
	}
}
