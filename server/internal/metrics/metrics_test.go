package metrics_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/torchherd/torchherd/server/internal/metrics"
)

// A server that lives through many versions keeps the counters of the newest.
func TestOldVersionsAreForgotten(t *testing.T) {
	m := metrics.New(metrics.Build{})
	for version := 1; version <= 10; version++ {
		m.Request(&metrics.Request{Model: "net", Version: strconv.Itoa(version)})
		m.Request(&metrics.Request{Model: "net", Version: strconv.Itoa(version), Reason: metrics.BrokenImage})
	}
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, family := range families {
		if family.GetName() != "torchherd_requests_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "version" {
					versions = append(versions, label.GetValue())
				}
			}
		}
	}
	slices.Sort(versions)
	if want := []string{"10", "10", "3", "3", "4", "4", "5", "5", "6", "6", "7", "7", "8", "8", "9", "9"}; !slices.Equal(versions, want) {
		t.Errorf("the versions with counters are %v, want %v", versions, want)
	}
}

// The definitions are complete, and each name and each reason is there once.
func TestDefinitions(t *testing.T) {
	seen := map[string]bool{}
	for _, each := range metrics.Definitions() {
		if each.Help == "" || each.Type == "" || seen[each.Name] {
			t.Errorf("%+v is incomplete or there twice", each)
		}
		seen[each.Name] = true
	}
	for _, each := range metrics.Reasons() {
		if each.Help == "" || each.Outcome == "" || seen[each.Name] {
			t.Errorf("%+v is incomplete or there twice", each)
		}
		seen[each.Name] = true
	}
}
