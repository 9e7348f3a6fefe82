package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/rollout"
	"github.com/torchherd/torchherd/server/internal/servable"
)

// stickyKey is by what a rollout knows the client of a request.
func (s *Server) stickyKey(request *http.Request) string {
	if key := request.Header.Get(s.config.StickyHeader); key != "" {
		return key
	}
	host, _, err := net.SplitHostPort(request.RemoteAddr)
	if err != nil { // a Unix socket has no ports
		return request.RemoteAddr
	}
	return host
}

// A watched request is one whose model may have a rollout.
type watched struct {
	lease      lifecycle.Lease
	rollout    *rollout.Controller // nil: none
	comparison *rollout.Comparison // nil: none
}

func (s *Server) watch(lease lifecycle.Lease) watched {
	w := watched{lease: lease, rollout: s.config.Rollouts[lease.Model()]}
	if w.rollout != nil {
		w.comparison = w.rollout.Compare(lease)
	}
	return w
}

// process is the lease's Process. After a success, the caller must call answered.
func (w *watched) process(ctx context.Context, body io.Reader, o servable.Options) (servable.Response, error) {
	o.Record = w.comparison.Recording()
	response, err := w.lease.Process(ctx, body, o)
	if w.rollout == nil {
		return response, err
	}
	outcome := rollout.Succeeded
	if err != nil {
		w.comparison.Answered(false)
		outcome = rollout.Neither
		if response, _ := explain(err); ofVersion(response) {
			outcome = rollout.Failed
		}
	}
	w.rollout.Processed(w.lease, response.Stages, outcome)
	return response, err
}

// ofVersion reports whether a response tells of a failure of the model's version.
func ofVersion(f *failure) bool {
	switch {
	case errors.Is(f, errDraining), f.busy:
		return false
	case errors.Is(f, errHung), errors.Is(f, errCrashed), errors.Is(f, errCrashesModel):
		return true
	}
	return f.status >= http.StatusInternalServerError && f.status != http.StatusServiceUnavailable
}

// answered starts the comparison, if there is one, now that the response has been sent.
func (w *watched) answered() { w.comparison.Answered(true) }
