package loader

import (
	"testing"
	"time"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
)

func TestTimeLimitOfABatch(t *testing.T) {
	for _, test := range []struct {
		fixed   time.Duration
		slowest SlowestBatch
		images  int // of 10x10
		want    time.Duration
	}{
		{time.Second, SlowestBatch{time.Hour, 100}, 9, time.Second},
		{0, SlowestBatch{}, 9, 30 * time.Second}, // the warm-up failed
		{0, SlowestBatch{time.Second, 200}, 1, 30 * time.Second},
		{0, SlowestBatch{time.Minute, 200}, 2, 20 * time.Minute},
		{0, SlowestBatch{time.Minute, 200}, 6, time.Hour}, // larger images than those of the warm-up
	} {
		items := make([]imagecodec.Image, test.images)
		items[0] = imagecodec.Image{Width: 10, Height: 10}
		if got := forwardLimit(test.fixed, test.slowest)(items); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}
