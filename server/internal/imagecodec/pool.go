package imagecodec

import "sync"

// largestKept is the size in bytes above which a pool keeps no slice: an image of 11 megapixels. A slice that large is seldom
// needed again before the collector empties the pool, and a later small image would hold it.
const largestKept = 32 << 20

// A pool recycles byte slices. A sync.Pool holds pointers, so each slice needs a box for its header; the pool recycles the
// boxes as well.
type pool struct{ full, empty sync.Pool }

func (p *pool) get(size int) []byte {
	box, ok := p.full.Get().(*[]byte)
	if !ok {
		return make([]byte, size)
	}
	memory := *box
	*box = nil
	p.empty.Put(box)
	if cap(memory) < size {
		return make([]byte, size)
	}
	return memory[:size]
}

func (p *pool) put(memory []byte) {
	if cap(memory) == 0 || cap(memory) > largestKept {
		return
	}
	box, ok := p.empty.Get().(*[]byte)
	if !ok {
		box = new([]byte)
	}
	*box = memory
	p.full.Put(box)
}
