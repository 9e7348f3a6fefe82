package picture

import "context"

// Acquire keeps a worker busy, for the tests.
func Acquire(c *Codec, ctx context.Context) (release func(), err error) { return c.acquire(ctx) }
