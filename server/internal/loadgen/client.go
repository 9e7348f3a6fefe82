package loadgen

import (
	"context"
	"time"
)

// An outcome is how a client continues after a request.
type outcome int

const (
	responded outcome = iota
	failed
	unreachable // no connection could be opened
)

// A client sends one request at a time over its own connection.
type client struct {
	run        *run
	connection connection
	samples    sampleBuffer
}

func (r *run) newClient() *client {
	return &client{run: r, connection: connection{target: r.target}, samples: sampleBuffer{out: r.samples}}
}

// close closes the connection and flushes the samples.
func (c *client) close() {
	c.connection.close()
	c.samples.flush()
}

// request sends the image for this turn and waits for the response.
func (c *client) request(ctx context.Context, intended time.Duration, turn int) outcome {
	r := c.run
	image := turn % len(r.requests)
	sent := r.elapsed()
	response, err := c.connection.roundTrip(ctx, r.requests[image])
	s := sample{intended: intended, sent: sent, ended: r.elapsed()}
	if err != nil && ctx.Err() != nil {
		if intended >= r.begin {
			r.cutOff.Add(1)
		}
		return failed
	}
	if err != nil {
		s.failure = failureText(err)
		c.samples.add(s)
		if isDial(err) {
			return unreachable
		}
		return failed
	}
	s.status = response.StatusCode()
	s.timing = string(response.Header.Peek("Server-Timing"))
	if s.isSuccess() {
		s.failure = r.checker.check(image, response.Body())
	}
	c.samples.add(s)
	return responded
}
