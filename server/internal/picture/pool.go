package picture

import "sync"

// A pool keeps byte slices for use again.
type pool struct{ slices sync.Pool }

func (p *pool) get(size int) []byte {
	if kept, ok := p.slices.Get().(*[]byte); ok && cap(*kept) >= size {
		return (*kept)[:size]
	}
	return make([]byte, size)
}

func (p *pool) put(memory []byte) {
	if cap(memory) > 0 {
		p.slices.Put(&memory)
	}
}
