package picture

import "context"

// The tasks, for the tests.
const (
	Encoding = encoding
	Decoding = decoding
)

// Acquire keeps a worker busy, for the tests.
func Acquire(ctx context.Context, c *Codec, t task) (release func(), err error) {
	return c.queue.acquire(ctx, t)
}
