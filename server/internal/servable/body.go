package servable

import (
	"errors"
	"io"
	"slices"
	"sync"
)

// firstBuffer is the first size of a body's buffer. Memory is taken as bytes arrive and not as the length announces, so a
// thousand clients that announce 4 MiB and send nothing cost little. Most images fit into the first buffer.
const firstBuffer = 256 << 10

// keptBuffer is the largest buffer that is used again, so that a few large bodies don't stay in memory.
const keptBuffer = 4 << 20

// A bodyPool reads bodies into memory that is used again.
type bodyPool struct{ pool sync.Pool } // of *received

// received is a body that has been read.
type received struct{ data []byte }

// read reads to the end of body. length is what the client announced; -1: unknown. read calls grow before it takes a
// number of bytes of memory, and ends with its error. It calls progress after each read with the number of bytes received so
// far, except after the last one. The caller returns the memory by recycle.
func (p *bodyPool) read(body io.Reader, length int64, grow func(bytes int) error, progress func(received int)) (*received, error) {
	r, ok := p.pool.Get().(*received)
	if !ok {
		r = &received{}
	}
	data := r.data[:0]
	first := int64(firstBuffer)
	if length >= 0 {
		first = min(length+1, firstBuffer) // one byte more, to see the end without growing
	}
	if int64(cap(data)) < first {
		data = make([]byte, 0, first)
	}
	if err := grow(cap(data)); err != nil {
		return nil, err
	}
	for {
		n, err := body.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			r.data = data
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		if int64(len(data)) != length { // all that was announced is there; the next read only sees the end
			progress(len(data))
		}
		if len(data) == cap(data) {
			more := cap(data)
			if left := length + 1 - int64(len(data)); left > 0 {
				more = int(min(int64(more), left))
			}
			if err := grow(more); err != nil {
				return nil, err
			}
			data = slices.Grow(data, more)
		}
	}
}

func (p *bodyPool) recycle(r *received) {
	if cap(r.data) <= keptBuffer {
		p.pool.Put(r)
	}
}
