// Package api is the HTTP face of the server: PUT /image and the health checks.
package api

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/model"
)

// Config says how requests are answered.
type Config struct {
	MaxUpload int64 // bytes of a body at most
	// RequestTimeout limits a request from its first byte to its answer, and what a client may ask for by the
	// X-Request-Timeout header; 0: no limit.
	RequestTimeout time.Duration
	// Sanic answers with the Sanic demo's statuses, which are 500 where this server's are more telling.
	Sanic bool
}

// A Server answers requests. It is safe for concurrent use.
type Server struct {
	config Config
	models model.Models
	log    zerolog.Logger
	echo   *echo.Echo
	gate   gate
	// unready is set when the server is about to stop.
	unready atomic.Bool
	bodies  sync.Pool // of *[]byte
}

// New makes a Server, which refuses pictures for a model as long as no version of it is ready.
func New(config Config, models model.Models, log zerolog.Logger) *Server {
	s := &Server{config: config, models: models, log: log, echo: echo.New()}
	s.gate.empty = sync.NewCond(&s.gate.mu)
	s.echo.HTTPErrorHandler = s.answerError
	// The order matters: the log sees what Recover made of a panic.
	s.echo.Use(s.observe, middleware.RecoverWithConfig(middleware.RecoverConfig{
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			s.log.Error().Str("request_id", requestID(c)).Err(err).Bytes("stack", stack).Msg("a handler panicked")
			return err
		},
	}))
	for _, path := range []string{"/image", "/image/:model", "/image/:model/versions/:version"} {
		s.echo.PUT(path, s.image)
		s.echo.POST(path, s.image)
	}
	s.echo.GET("/healthz", func(c echo.Context) error { return c.String(http.StatusOK, "ok\n") })
	s.echo.GET("/readyz", s.ready)
	return s
}

// ServeHTTP is the http.Handler's method.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Unready makes /readyz say that the server is about to stop. Images are still welcome.
func (s *Server) Unready() { s.unready.Store(true) }

// Drain makes the server unready, refuses new pictures, and returns when the accepted requests have been answered
// or the context is done.
func (s *Server) Drain(ctx context.Context) error {
	s.Unready()
	s.gate.close()
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
		return context.Cause(ctx)
	}
}

// ready answers whether new pictures are welcome, for each model.
func (s *Server) ready(c echo.Context) error {
	switch {
	case s.unready.Load():
		return errDraining
	case !s.models.Ready():
		return errNotReady
	}
	return c.String(http.StatusOK, "ready\n")
}

// A gate counts the requests inside and can be closed for new ones.
type gate struct {
	mu     sync.Mutex
	empty  *sync.Cond // inside has become 0
	inside int
	closed bool
}

// enter tells whether the gate is open; then the caller must leave.
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

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// wait returns when nobody is inside.
func (g *gate) wait() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.inside > 0 {
		g.empty.Wait()
	}
}
