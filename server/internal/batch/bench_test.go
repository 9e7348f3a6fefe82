package batch_test

import (
	"testing"

	"github.com/torchherd/torchherd/server/internal/batch"
)

// BenchmarkSubmit measures the overhead of the batcher: many goroutines submit items that cost nothing to run.
func BenchmarkSubmit(b *testing.B) {
	c := config(&recorder{})
	c.MaxBatchSize, c.MaxQueueSize, c.FixedWait = 8, 1024, false
	c.Run = synchronous(func(items []entry) ([]int, error) { return make([]int, len(items)), nil })
	batcher, err := batch.New(c)
	if err != nil {
		b.Fatal(err)
	}
	defer batcher.Close()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := batcher.Arrive().Submit(b.Context(), entry{"s", 1}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
