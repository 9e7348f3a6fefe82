package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/metrics"
)

// scrape returns the server's metrics by name.
func (s *server) scrape() map[string]*dto.MetricFamily {
	s.t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(s.admin.do(http.MethodGet, "/metrics", nil).body))
	if err != nil {
		s.t.Fatal(err)
	}
	return families
}

// find returns the metric of a family that has these labels, given as pairs of name and value.
func find(family *dto.MetricFamily, labels ...string) *dto.Metric {
	for _, metric := range family.GetMetric() {
		found := 0
		for _, label := range metric.GetLabel() {
			for i := 0; i < len(labels); i += 2 {
				if label.GetName() == labels[i] && label.GetValue() == labels[i+1] {
					found++
				}
			}
		}
		if found == len(labels)/2 {
			return metric
		}
	}
	return nil
}

// expectCounter checks the value of a counter.
func expectCounter(t *testing.T, family *dto.MetricFamily, want float64, labels ...string) {
	t.Helper()
	if got := find(family, labels...).GetCounter().GetValue(); got != want {
		t.Errorf("%s %v is %v, want %v", family.GetName(), labels, got, want)
	}
}

// Each request is counted once, with what became of it, and the log has the same reason.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	s := start(t, "--require", "any", "--max-upload", "1MiB", module("negate.pt"), goldens.ScriptAt(t, t.TempDir()+"/fails.pt", "\n    raise RuntimeError('no')\n"))
	photo := photograph(t, "jpeg-small.jpg")
	const answered = 3
	for range answered {
		expectImage(t, s.put(photo))
	}
	other := []struct {
		reason  *metrics.Reason
		request func() response
		model   string
	}{
		{metrics.UnknownFormat, func() response { return s.put([]byte("no image")) }, "negate"},
		{metrics.BrokenImage, func() response { return s.put(photo[:len(photo)/2]) }, "negate"},
		{metrics.TooLarge, func() response { return s.put(make([]byte, 2<<20)) }, "negate"},
		{metrics.WrongParameter, func() response { return s.putTo("/image?format=bmp", photo) }, "negate"},
		{metrics.NotFound, func() response { return s.putTo("/image/nothing", photo) }, ""},
		{metrics.NotFound, func() response { return s.do(http.MethodGet, "/nowhere", nil) }, ""},
		{metrics.WrongMethod, func() response { return s.do(http.MethodGet, "/image", nil) }, ""},
		{metrics.NotReady, func() response { return s.putTo("/image/fails", photo) }, ""},
	}
	want := map[[2]string]float64{}
	outcomes := map[[2]string]float64{{"negate", string(metrics.Answered)}: answered}
	for _, each := range other {
		before := s.log.count("reason", each.reason.Name)
		if r := each.request(); r.status < 400 {
			t.Errorf("%s: got %d", each.reason.Name, r.status)
		}
		s.log.awaitCount(t, before+1, "reason", each.reason.Name)
		want[[2]string{each.model, each.reason.Name}]++
		outcomes[[2]string{each.model, string(each.reason.Outcome)}]++
	}
	s.do(http.MethodGet, "/healthz", nil)
	s.do(http.MethodOptions, "/image", nil)

	families := s.scrape()
	for key, count := range want {
		expectCounter(t, families["torchherd_request_errors_total"], count, "model", key[0], "reason", key[1])
	}
	var total, expected float64
	for _, metric := range families["torchherd_requests_total"].GetMetric() {
		total += metric.GetCounter().GetValue()
	}
	for key, count := range outcomes {
		expected += count
		expectCounter(t, families["torchherd_requests_total"], count, "model", key[0], "outcome", key[1])
	}
	if total != expected {
		t.Errorf("%v requests are counted, want %v", total, expected)
	}
	for _, stage := range []string{"receive", "decode", "queue", "forward", "encode"} {
		if got := find(families["torchherd_stage_duration_seconds"], "model", "negate", "stage", stage).GetHistogram().GetSampleCount(); got < answered {
			t.Errorf("the stage %s has %d samples, want %d", stage, got, answered)
		}
	}
	duration := find(families["torchherd_request_duration_seconds"], "model", "negate").GetHistogram()
	if duration.GetSampleCount() != answered || duration.GetSampleSum() <= 0 {
		t.Errorf("the durations are %v, want %d", duration, answered)
	}
	sizes := find(families["torchherd_batch_size"], "model", "negate").GetHistogram()
	if sizes.GetSampleSum() != answered {
		t.Errorf("the batches have %v images, want %d", sizes.GetSampleSum(), answered)
	}
	if busy := find(families["torchherd_runner_busy_seconds_total"], "model", "negate").GetCounter().GetValue(); busy <= 0 {
		t.Errorf("the runners were busy for %v s", busy)
	}
	if got := find(families["torchherd_sent_bytes_total"], "model", "negate").GetCounter().GetValue(); got < answered*100 {
		t.Errorf("%v bytes were sent", got)
	}
	if got := find(families["torchherd_received_bytes_total"], "model", "negate").GetCounter().GetValue(); got < float64(answered*len(photo)) {
		t.Errorf("%v bytes were received", got)
	}
}

// Refusals for a full queue, expired deadlines and clients that leave are counted as such; the gauges say what is there
// meanwhile.
func TestWhatWaitsIsCounted(t *testing.T) {
	t.Parallel()
	s := start(t, "--max-queue-size", "2", "--max-batch-size", "8", "--max-wait", "1h", "--wait-policy", "fixed", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	for range 2 {
		go func() {
			_, err := s.tryWith(ctx, http.MethodPut, "/image", bytes.NewReader(photo))
			gone <- err
		}()
	}
	awaitResponse(t, func() bool {
		return find(s.scrape()["torchherd_queue_images"], "model", "negate").GetGauge().GetValue() == 2
	})
	families := s.scrape()
	if got := families["torchherd_requests_in_flight"].GetMetric()[0].GetGauge().GetValue(); got != 2 {
		t.Errorf("%v requests are in flight, want 2", got)
	}
	if got := find(families["torchherd_queue_limit_images"], "model", "negate", "version", "1").GetGauge().GetValue(); got != 2 {
		t.Errorf("the queue has %v places, want 2", got)
	}
	expectError(t, s.put(photo), 503, "too busy")
	expectCounter(t, s.scrape()["torchherd_request_errors_total"], 1, "model", "negate", "reason", "queue_full")
	leave()
	for range 2 {
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the client's own cancellation", err)
		}
	}
	s.log.awaitCount(t, 2, "reason", "client_closed")
	expectCounter(t, s.scrape()["torchherd_requests_total"], 2, "model", "negate", "version", "1", "outcome", "left")
	awaitResponse(t, func() bool {
		return find(s.scrape()["torchherd_queue_images"], "model", "negate").GetGauge().GetValue() == 0
	})

	expectError(t, s.put(photo, "X-Request-Timeout", "50ms"), 504, "deadline")
	expectCounter(t, s.scrape()["torchherd_requests_total"], 1, "model", "negate", "outcome", "expired")
}
