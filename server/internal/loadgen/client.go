package loadgen

import (
	"context"
	"time"
)

// An outcome is what a request came to, as far as its client goes by it.
type outcome int

const (
	answered outcome = iota
	failed
	unreachable // no connection could be opened
)

// A client sends one request at a time, on a connection of its own.
type client struct {
	run        *run
	connection connection
	journal    journal
}

func (r *run) newClient() *client {
	return &client{run: r, connection: connection{target: r.target}, journal: journal{out: r.samples}}
}

// close ends the connection and hands over the last samples.
func (c *client) close() {
	c.connection.close()
	c.journal.flush()
}

// request sends the picture whose turn it is and waits for the answer.
func (c *client) request(ctx context.Context, intended time.Duration, turn int) outcome {
	r := c.run
	picture := turn % len(r.requests)
	sent := r.elapsed()
	answer, err := c.connection.exchange(ctx, r.requests[picture])
	s := sample{intended: intended, sent: sent, ended: r.elapsed()}
	if err != nil && ctx.Err() != nil {
		if intended >= r.begin {
			r.cutOff.Add(1)
		}
		return failed
	}
	if err != nil {
		s.failure = describe(err)
		c.journal.add(s)
		if isDial(err) {
			return unreachable
		}
		return failed
	}
	s.status = answer.StatusCode()
	s.timing = string(answer.Header.Peek("Server-Timing"))
	if s.isSuccess() {
		s.failure = r.checker.check(picture, answer.Body())
	}
	c.journal.add(s)
	return answered
}
