package servable

import (
	"errors"
	"io"
	"sync"
)

// firstBuffer is the first size of a body's buffer. Memory is taken as bytes arrive and not as the length announces, so a
// thousand clients that announce 4 MiB and send nothing cost little. Most images fit into the first buffer.
const firstBuffer = 256 << 10

// A bodyPool reads bodies into memory that is used again.
type bodyPool struct{ pool sync.Pool } // of *[]byte

// read reads to the end of body. length is what the client announced; -1: unknown. The caller returns the memory by
// recycle.
func (p *bodyPool) read(body io.Reader, length int64) ([]byte, error) {
	kept, ok := p.pool.Get().(*[]byte)
	if !ok {
		kept = new([]byte)
	}
	data := (*kept)[:0]
	first := int64(firstBuffer)
	if length >= 0 {
		first = min(length+1, firstBuffer) // one byte more, to see the end without growing
	}
	if int64(cap(data)) < first {
		data = make([]byte, 0, first)
	}
	for {
		n, err := body.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)] // grows as append does
		}
	}
}

func (p *bodyPool) recycle(data []byte) { p.pool.Put(&data) }
