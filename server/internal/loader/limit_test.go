package loader

import (
	"testing"
	"time"
)

func TestTimeLimitOfABatch(t *testing.T) {
	for _, test := range []struct {
		fixed   time.Duration
		slowest SlowestBatch
		pixels  int
		want    time.Duration
	}{
		{time.Second, SlowestBatch{time.Hour, 100}, 900, time.Second},
		{0, SlowestBatch{}, 900, 30 * time.Second}, // the warm-up failed
		{0, SlowestBatch{time.Second, 200}, 100, 30 * time.Second},
		{0, SlowestBatch{time.Minute, 200}, 200, 20 * time.Minute},
		{0, SlowestBatch{time.Minute, 200}, 600, time.Hour}, // larger images than those of the warm-up
	} {
		if got := forwardLimit(test.fixed, test.slowest)(test.pixels); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}
