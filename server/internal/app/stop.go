package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

const (
	// cleanUpTime is how long Stop may take after its context has ended.
	cleanUpTime = time.Second
	// hangCheck is the time between two looks for a forward that hangs. The models notice it themselves.
	hangCheck = 500 * time.Millisecond
)

// A HungError is why a server must be started anew: a forward of this model never ends.
type HungError struct {
	Model, Version string
	*batch.HungError
}

func (e *HungError) Error() string {
	return fmt.Sprintf("version %s of %s: %v", e.Version, e.Model, e.HungError)
}

func (e *HungError) Unwrap() error { return e.HungError }

// watchForwards makes the server unready and sends to Failed when a forward hangs.
func (a *App) watchForwards(ctx context.Context) {
	ticker := time.NewTicker(hangCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for _, model := range a.models {
			err := model.Healthy()
			var unhealthy *lifecycle.UnhealthyError
			var hung *batch.HungError
			if !errors.As(err, &unhealthy) || !errors.As(err, &hung) {
				continue
			}
			a.handler.Unready()
			a.failed <- &HungError{unhealthy.Model, unhealthy.Version, hung}
			return
		}
	}
}

// Stop makes the server unready, goes on for Options.DrainDelay, refuses new images, and returns when the accepted ones
// have been answered and everything is closed. When ctx ends before, requests are cut off and Stop returns an error that
// says so, at the latest after cleanUpTime, whatever hangs. Then models may still be in use.
func (a *App) Stop(ctx context.Context) error {
	drained, stopped := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(stopped)
		drained <- a.drain(ctx)
		a.cleanUp()
	}()
	late := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		timer := time.NewTimer(cleanUpTime)
		defer timer.Stop()
		select {
		case <-timer.C:
			close(late)
		case <-stopped:
		}
	})()
	var errs []error
	select {
	case <-stopped:
	case <-late:
		if open := a.openVersions(); len(open) > 0 {
			errs = append(errs, fmt.Errorf("not closed in time: %s", strings.Join(open, ", ")))
		}
	}
	select {
	case err := <-drained:
		errs = append([]error{err}, errs...)
	default:
		errs = append(errs, errors.New("draining hangs"))
	}
	return errors.Join(errs...)
}

// drain answers the accepted requests and closes their connections.
func (a *App) drain(ctx context.Context) error {
	log := a.options.Log
	a.handler.Unready()
	if delay := a.options.DrainDelay; delay > 0 {
		log.Info().Dur("delay_ms", delay).Msg("stopping: not ready any more, still accepting images")
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	log.Info().Msg("draining: accepting no new images")
	if err := a.handler.Drain(ctx); err != nil {
		return err
	}
	if err := a.main.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("connections were cut off: %w", err)
	}
	log.Info().Msg("drained")
	return nil
}

// openVersions returns the versions that have been loaded and aren't closed.
func (a *App) openVersions() []string {
	var open []string
	for _, model := range a.models {
		for _, status := range model.Statuses() {
			if status.State == lifecycle.Ready || status.State == lifecycle.Draining {
				open = append(open, fmt.Sprintf("version %d of %s", status.Version, model.Name()))
			}
		}
	}
	return open
}
