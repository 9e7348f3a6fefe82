package repository

import (
	"context"
	"time"
)

// WhenSettled is the part of Watch that can run with a fake clock.
var WhenSettled = whenSettled

// Poll is the other part.
func (s *Source) Poll(ctx context.Context, interval time.Duration, events chan<- struct{}) {
	s.poll(ctx, interval, s.state(), events)
}
