// Package admin is the HTTP interface for operators: what is served, how to change it, and metrics.
//
// Without a key it has no authentication, so its address must not be public. A web page that an operator looks at can
// reach it all the same; package admin refuses requests from pages (see access.go).
package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/metrics"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

// A Model is an entry of GET /models.
type Model struct {
	Name     string             `json:"name"`
	Versions []lifecycle.Status `json:"versions"` // in the order of their loads
	Warnings []string           `json:"warnings,omitempty"`
	// Rollout describes the candidate, or the last one; nil: there has been none.
	Rollout *rollout.Report `json:"rollout,omitempty"`
}

// An entry of the repository index, as Triton's extension of the Open Inference Protocol defines it
// (https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md).
type entry struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
	Reason  string `json:"reason"`
}

// protocolStates are the protocol's names of the states.
var protocolStates = map[lifecycle.State]string{
	lifecycle.Queued: "LOADING", lifecycle.Loading: "LOADING", lifecycle.Warming: "LOADING", lifecycle.Candidate: "LOADING",
	lifecycle.Ready: "READY", lifecycle.Draining: "UNLOADING", lifecycle.Unloaded: "UNAVAILABLE", lifecycle.Failed: "UNAVAILABLE",
}

// maxBody limits a request's body, in Echo's notation of bytes.
const maxBody = "1M"

const (
	// ReadTimeout limits how long a request may take to arrive.
	ReadTimeout = 5 * time.Second
	// WriteTimeout limits how long a response may take, from the end of the request's header. A load has its own time.
	WriteTimeout = 30 * time.Second
)

// Config says which requests the handler accepts.
type Config struct {
	Models lifecycle.Models
	// Rollouts are the models' rollouts, by the models' names.
	Rollouts map[string]*rollout.Controller

	Metrics  *metrics.Metrics
	InFlight func() int // the number of requests for images
	// Received and Decoding are the memory of bodies and decodes.
	Received, Decoding *memory.Budget

	Listen string   // the address as configured, host:port or unix:PATH; its host may be in a request's Host header
	Hosts  []string // further names for the Host header
	Key    string   // that every request must have as a bearer token; empty: none
	Debug  Debug
	Log    zerolog.Logger
}

// New returns the handler for the administration of models. Its http.Server should have this package's timeouts.
func New(config Config) http.Handler {
	h := handler{config.Models, config.Rollouts}
	registry := config.Metrics.Registry()
	registry.MustRegister(collector{&config})
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { respondError(err, c, config.Log) }
	e.Use(middleware.Recover(), newAccess(config).check, middleware.BodyLimit(maxBody))
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	config.Debug.routes(e)
	e.GET("/models", h.list)
	e.POST("/v2/repository/index", h.index)
	e.POST("/v2/repository/models/:name/load", h.load)
	e.POST("/v2/repository/models/:name/unload", h.unload)
	e.POST("/v2/repository/models/:name/promote", h.promote)
	e.POST("/v2/repository/models/:name/rollback", h.rollback)
	return e
}

type handler struct {
	models   lifecycle.Models
	rollouts map[string]*rollout.Controller
}

func (h handler) list(c echo.Context) error {
	list := make([]Model, len(h.models))
	for i, model := range h.models {
		list[i] = Model{Name: model.Name(), Versions: model.Statuses(), Warnings: model.Warnings()}
		if following, ok := h.rollouts[model.Name()]; ok {
			list[i].Rollout = following.Report()
		}
	}
	return c.JSON(http.StatusOK, list)
}

func (h handler) index(c echo.Context) error {
	var query struct {
		Ready bool `json:"ready"` // list ready versions only
	}
	if err := decode(c, &query); err != nil {
		return err
	}
	entries := []entry{}
	for _, model := range h.models {
		for _, status := range model.Statuses() {
			if !query.Ready || status.State == lifecycle.Ready {
				entries = append(entries, entry{model.Name(), fmt.Sprint(status.Version), protocolStates[status.State], status.Reason})
			}
		}
	}
	return c.JSON(http.StatusOK, entries)
}

// load responds when the wanted versions are ready.
func (h handler) load(c echo.Context) error { return h.change(c, (*lifecycle.Model).Reload) }

func (h handler) unload(c echo.Context) error { return h.change(c, (*lifecycle.Model).Unload) }

// promote responds when the candidate serves in place of the version that did.
func (h handler) promote(c echo.Context) error {
	return h.change(c, func(m *lifecycle.Model) error { return m.Promote(lifecycle.AnyLoad) })
}

// rollback responds when the candidate has gone, or, without one, when an older version serves.
func (h handler) rollback(c echo.Context) error {
	return h.change(c, func(m *lifecycle.Model) error { return m.Rollback(lifecycle.AnyLoad, "rolled back by an operator") })
}

func (h handler) change(c echo.Context, change func(*lifecycle.Model) error) error {
	model, err := h.target(c)
	if err != nil {
		return err
	}
	err = change(model)
	// The time that the change took isn't the client's.
	_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(WriteTimeout))
	if err != nil {
		return echo.NewHTTPError(http.StatusBadRequest, err.Error())
	}
	return c.JSON(http.StatusOK, struct{}{})
}

// target returns the model that the path names. Errors: no such model, or a request for something that can't be done.
func (h handler) target(c echo.Context) (*lifecycle.Model, error) {
	model, err := h.models.Find(c.Param("name"))
	if err != nil {
		return nil, echo.NewHTTPError(http.StatusNotFound, err.Error())
	}
	var body struct {
		Parameters map[string]any `json:"parameters"`
	}
	if err := decode(c, &body); err != nil {
		return nil, err
	}
	for name := range body.Parameters {
		if name != "unload_dependents" { // Triton's clients always send it; no model depends on another one here
			return nil, echo.NewHTTPError(http.StatusBadRequest, fmt.Sprintf("unknown parameter %q: a load takes what is in the model's folder", name))
		}
	}
	return model, nil
}

// decode reads a request's JSON body, which may be empty.
func decode(c echo.Context, into any) error {
	err := json.NewDecoder(c.Request().Body).Decode(into)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return echo.NewHTTPError(http.StatusRequestTimeout, fmt.Sprintf("the request body didn't arrive within %v", ReadTimeout))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return echo.NewHTTPError(http.StatusBadRequest, "invalid JSON in the request body: "+err.Error())
	}
	return nil
}

// respondError answers as the protocol does, with the reason under "error".
func respondError(err error, c echo.Context, log zerolog.Logger) {
	if c.Response().Committed {
		return
	}
	status, text := http.StatusInternalServerError, err.Error()
	var known *echo.HTTPError
	if errors.As(err, &known) {
		status, text = known.Code, fmt.Sprint(known.Message)
	}
	if err := c.JSON(status, map[string]string{"error": text}); err != nil {
		log.Debug().Err(err).Msg("cannot send an error response")
	}
}
