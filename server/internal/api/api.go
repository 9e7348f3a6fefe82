// Package api serves images and health checks over HTTP. It keeps to HTTP: headers, statuses and deadlines. What happens to
// an image is package servable's.
package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

// Config says how requests are answered.
type Config struct {
	MaxUpload int64 // largest body in bytes
	// RequestTimeout limits a request from its first byte to its response, and what a client may ask for by the
	// X-Request-Timeout header. 0: no limit.
	RequestTimeout time.Duration
	Require        lifecycle.Require // which models must be ready for /readyz; empty: all
	// Rollouts compare new versions of models, by the models' names. Those without an entry swap at once.
	Rollouts map[string]*rollout.Controller
	Metrics  *metrics.Metrics
	// StickyHeader is the header by whose value a rollout knows a client; empty, or absent from a request: the address.
	StickyHeader string
	// Sanic uses the Sanic demo's statuses, which are 500 where this server's are more specific.
	Sanic bool
}

// A Server answers requests. It is safe for concurrent use.
type Server struct {
	config Config
	models lifecycle.Models
	log    zerolog.Logger
	echo   *echo.Echo
	gate   gate
	// unready is set when the server is about to stop.
	unready  atomic.Bool
	draining context.Context //nolint:containedctx // ends when Drain begins
	drain    context.CancelFunc
}

// New returns a Server, which refuses images for a model while no version of it is ready.
func New(config Config, models lifecycle.Models, log zerolog.Logger) *Server {
	s := &Server{config: config, models: models, log: log, echo: echo.New()}
	s.gate.empty = sync.NewCond(&s.gate.mu)
	s.draining, s.drain = context.WithCancel(context.Background())
	s.echo.HTTPErrorHandler = s.respondError
	// The order matters: the log has what Recover made of a panic.
	s.echo.Use(s.observe, middleware.RecoverWithConfig(middleware.RecoverConfig{
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			s.log.Error().Str("request_id", requestID(c)).Err(err).Bytes("stack", stack).Msg("handler panicked")
			return err
		},
	}))
	for _, path := range []string{"/image", "/image/:model", "/image/:model/versions/:version"} {
		s.echo.PUT(path, s.image)
		s.echo.POST(path, s.image)
		s.echo.OPTIONS(path, imageOptions)
	}
	// HAProxy's check sends OPTIONS unless it is told otherwise, so OPTIONS answers as GET does.
	for _, method := range healthMethods {
		s.echo.Add(method, healthPath, healthy)
		s.echo.Add(method, readyPath, s.ready)
	}
	return s
}

const (
	healthPath = "/healthz"
	readyPath  = "/readyz"
)

var (
	imageMethods  = []string{http.MethodPut, http.MethodPost, http.MethodOptions}
	healthMethods = []string{http.MethodGet, http.MethodHead, http.MethodOptions}
)

// isHealth reports whether a path is a health check's.
func isHealth(path string) bool { return path == healthPath || path == readyPath }

// allowed returns the Allow header of a path.
func allowed(path string) string {
	if isHealth(path) {
		return strings.Join(healthMethods, ", ")
	}
	return strings.Join(imageMethods, ", ")
}

func imageOptions(c echo.Context) error {
	c.Response().Header().Set(echo.HeaderAllow, allowed(c.Request().URL.Path))
	prepare(c)
	return c.NoContent(http.StatusNoContent)
}

func healthy(c echo.Context) error { return respondText(c, http.StatusOK, "ok\n") }

func respondText(c echo.Context, status int, text string) error {
	return respond(c, status, echo.MIMETextPlainCharsetUTF8, []byte(text))
}

// ServeHTTP is the method of http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Unready makes /readyz fail, while images are still accepted.
func (s *Server) Unready() { s.unready.Store(true) }

// InFlight is how many requests for images are under way.
func (s *Server) InFlight() int { return s.gate.count() }

// Drain makes the server unready, refuses new images, and returns when the accepted requests have been answered or ctx
// is done. Then the error wraps the cause of ctx, and has the number of requests that were cut off.
func (s *Server) Drain(ctx context.Context) error {
	s.Unready()
	s.gate.close()
	s.drain()
	s.models.StopWaiting()
	drained := make(chan struct{})
	go func() {
		s.gate.wait()
		close(drained)
	}()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w; requests cut off: %d", context.Cause(ctx), s.gate.count())
	}
}

// ready answers /readyz: whether the models accept images and process them.
func (s *Server) ready(c echo.Context) error {
	switch {
	case s.unready.Load():
		return errDraining
	case s.models.Ready(s.config.Require) != nil:
		return errNotReady
	}
	return respondText(c, http.StatusOK, "ready\n")
}

// A gate counts the requests inside and can be closed for new ones.
type gate struct {
	mu     sync.Mutex
	empty  *sync.Cond // signals that inside has become 0
	inside int
	closed bool
}

// enter reports whether the gate is open. If so, the caller must leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 {
		g.empty.Broadcast()
	}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// wait returns when no request is inside.
func (g *gate) wait() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.inside > 0 {
		g.empty.Wait()
	}
}
