package imagecodec

import "sync"

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
	if cap(memory) == 0 {
		return
	}
	box, ok := p.empty.Get().(*[]byte)
	if !ok {
		box = new([]byte)
	}
	*box = memory
	p.full.Put(box)
}
