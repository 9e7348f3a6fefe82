// Package admin is the HTTP face of the server for those who run it: what is served, and how to change it. Nothing
// here asks who is there, so its address must not be open to everybody.
package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/model"
)

// A Model is an entry of GET /models.
type Model struct {
	Name     string         `json:"name"`
	Versions []model.Status `json:"versions"` // oldest first
}

// An entry of the repository's index, as the Open Inference Protocol has it in Triton's extension
// (https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md).
type entry struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
	Reason  string `json:"reason"`
}

// The protocol's word for each state.
var states = map[model.State]string{
	model.Queued: "LOADING", model.Loading: "LOADING", model.Warming: "LOADING",
	model.Ready: "READY", model.Draining: "UNLOADING", model.Gone: "UNAVAILABLE", model.Failed: "UNAVAILABLE",
}

// maxBody bounds a request's body, in bytes.
const maxBody = "1M"

// New returns the handler for the administration of the models.
func New(models model.Models, log zerolog.Logger) http.Handler {
	h := handler{models}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collector{models})
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { answerError(err, c, log) }
	e.Use(middleware.Recover(), middleware.BodyLimit(maxBody))
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})))
	e.GET("/models", h.list)
	e.POST("/v2/repository/index", h.index)
	e.POST("/v2/repository/models/:name/load", h.load)
	e.POST("/v2/repository/models/:name/unload", h.unload)
	return e
}

type handler struct{ models model.Models }

func (h handler) list(c echo.Context) error {
	list := make([]Model, len(h.models))
	for i, served := range h.models {
		list[i] = Model{Name: served.Name(), Versions: served.Statuses()}
	}
	return c.JSON(http.StatusOK, list)
}

func (h handler) index(c echo.Context) error {
	var query struct {
		Ready bool `json:"ready"` // only those that are
	}
	if err := read(c, &query); err != nil {
		return err
	}
	entries := []entry{}
	for _, served := range h.models {
		for _, status := range served.Statuses() {
			if !query.Ready || status.State == model.Ready {
				entries = append(entries, entry{served.Name(), fmt.Sprint(status.Version), states[status.State], status.Reason})
			}
		}
	}
	return c.JSON(http.StatusOK, entries)
}

// load answers when the wanted versions serve.
func (h handler) load(c echo.Context) error { return h.change(c, (*model.Served).Load) }

func (h handler) unload(c echo.Context) error { return h.change(c, (*model.Served).Unload) }

func (h handler) change(c echo.Context, change func(*model.Served) error) error {
	served, err := h.expect(c)
	if err != nil {
		return err
	}
	if err := change(served); err != nil {
		return echo.NewHTTPError(http.StatusBadRequest, err.Error())
	}
	return c.JSON(http.StatusOK, struct{}{})
}

// expect returns the model that the path names, or an error if there is none or what is asked for can't be done.
func (h handler) expect(c echo.Context) (*model.Served, error) {
	served, err := h.models.Find(c.Param("name"))
	if err != nil {
		return nil, echo.NewHTTPError(http.StatusNotFound, err.Error())
	}
	var body struct {
		Parameters map[string]any `json:"parameters"`
	}
	if err := read(c, &body); err != nil {
		return nil, err
	}
	for name := range body.Parameters {
		if name != "unload_dependents" { // Triton's clients send it always; nothing depends on a model here
			return nil, echo.NewHTTPError(http.StatusBadRequest, fmt.Sprintf("no parameter %q: what is loaded is what lies in the model's folder", name))
		}
	}
	return served, nil
}

// read reads a request's JSON, which may be left out.
func read(c echo.Context, into any) error {
	err := json.NewDecoder(c.Request().Body).Decode(into)
	if err != nil && !errors.Is(err, io.EOF) {
		return echo.NewHTTPError(http.StatusBadRequest, "the body isn't the JSON that is wanted here: "+err.Error())
	}
	return nil
}

// answerError answers as the protocol does, with the reason under "error".
func answerError(err error, c echo.Context, log zerolog.Logger) {
	if c.Response().Committed {
		return
	}
	status, text := http.StatusInternalServerError, err.Error()
	var known *echo.HTTPError
	if errors.As(err, &known) {
		status, text = known.Code, fmt.Sprint(known.Message)
	}
	if err := c.JSON(status, map[string]string{"error": text}); err != nil {
		log.Debug().Err(err).Msg("an error's answer could not be sent")
	}
}
