package servable

import (
	"sync"
	"sync/atomic"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
)

// A job is an image on its way through the model. Its request holds it until the response is encoded or has failed, and its
// batch while it runs. A request whose client has left gives the job up before its batch has ended, so the last of the two
// recycles the memory.
type job struct {
	input   imagecodec.Image
	parts   *parts           // further inputs; nil: the model has none
	output  imagecodec.Image // set before the batch drops the job; without pixels: none
	holders atomic.Int32
	held    bool // by the batch, which alone uses the field
}

// A jobPool makes jobs, and uses them again.
type jobPool struct{ pool sync.Pool } // of *job

func (p *jobPool) get(input imagecodec.Image, further *parts) *job {
	j, ok := p.pool.Get().(*job)
	if !ok {
		j = new(job)
	}
	j.input, j.parts = input, further
	j.holders.Store(1)
	return j
}

// put takes back a job that only its request holds and whose images have been recycled.
func (p *jobPool) put(j *job) {
	j.input, j.parts, j.output = imagecodec.Image{}, nil, imagecodec.Image{}
	p.pool.Put(j)
}

// hold keeps the job for a batch. It returns false if the request has given the job up, whose memory is gone then.
func (j *job) hold() bool {
	for {
		n := j.holders.Load()
		if n == 0 {
			return false
		}
		if j.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// givenUp reports whether only the batch that asks holds the job, so that nobody waits for its result.
func (j *job) givenUp() bool { return j.holders.Load() == 1 }

// recycleInput recycles the memory of the inputs.
func (j *job) recycleInput(codec *imagecodec.Codec) {
	codec.Recycle(j.input.Pixels)
	j.parts.recycle(codec)
}

// shape returns what must be equal in a batch.
func (j *job) shape() shape {
	s := shape{width: j.input.Width, height: j.input.Height}
	if j.parts != nil {
		s.parts = j.parts.key
	}
	return s
}

// drop ends a hold.
func (j *job) drop(codec *imagecodec.Codec) {
	if j.holders.Add(-1) == 0 {
		j.recycleInput(codec)
		codec.Recycle(j.output.Pixels)
	}
}
