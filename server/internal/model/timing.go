package model

import (
	"slices"
	"time"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
)

// A Timing is how long batches of one size take on the first instance, from bytes to bytes.
type Timing struct {
	Batch         int
	Input, Output imagecodec.Image // without their pixels
	Took          time.Duration    // the median of Host.TimedRuns
}

// time measures each batch size of pictures of one size.
func (m *Model) time(instance, width, height int) error {
	for size := 1; size <= m.settings.MaxBatchSize; size++ {
		items := testImages(size, width, height)
		timing := Timing{Batch: size, Input: items[0]}
		took := make([]time.Duration, m.host.TimedRuns)
		for i := range took {
			start := time.Now()
			answers, err := m.runOnce(instance, items)
			if err != nil {
				return err
			}
			took[i], timing.Output = time.Since(start), answers[0]
		}
		slices.Sort(took)
		timing.Took = took[len(took)/2]
		timing.Input.Pixels, timing.Output.Pixels = nil, nil
		m.timings = append(m.timings, timing)
	}
	return nil
}
