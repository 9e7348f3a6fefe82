package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

const (
	// concurrentLoads is how many models are loaded at the same time at the start. Models that have been loading for
	// loadPatience don't count, so that a load that hangs delays the others only for that time.
	concurrentLoads = 2
	loadPatience    = 10 * time.Second
)

// A loadEvent is what has become of the first load of a model.
type loadEvent struct {
	model int
	ended bool  // else it has been loading for loadPatience
	err   error // why the model isn't served
}

// loadModels loads the models, in their order, and returns as Start says.
func (a *App) loadModels(ctx context.Context) error {
	events := make(chan loadEvent, 2*len(a.models)) // all that can come, so that no load waits for a Start that has returned
	go a.startLoads(ctx, events)
	settled := map[int]bool{}
	served, ended := 0, 0
	var errs []error
	for ended < len(a.models) {
		select {
		case event := <-events:
			settled[event.model] = true
			if event.ended {
				ended++
			}
			switch {
			case event.err != nil && a.options.Require != lifecycle.Any:
				return event.err
			case event.err != nil:
				errs = append(errs, event.err)
			case event.ended:
				served++
			}
			if a.options.Require == lifecycle.Any && served > 0 && len(settled) == len(a.models) {
				return nil
			}
		case err := <-a.failed:
			return err
		case <-ctx.Done():
			return errors.New("stopped while the models were loading")
		}
	}
	return errors.Join(errs...) // with lifecycle.Any that is every model's
}

// startLoads loads the models side by side and sends what becomes of each. It returns when the last load has begun.
func (a *App) startLoads(ctx context.Context, events chan<- loadEvent) {
	slots := make(chan struct{}, concurrentLoads)
	for i, model := range a.models {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		release := sync.OnceFunc(func() { <-slots })
		late := time.AfterFunc(loadPatience, func() {
			events <- loadEvent{model: i}
			release()
		})
		go func() { //nolint:contextcheck // loads have the model's context, which Close ends
			err := model.Reload()
			late.Stop()
			// An error beside a ready version is a newer version's, which has been logged. A model that was unloaded meanwhile
			// is as its operator wants it.
			if model.Ready() || errors.Is(err, lifecycle.ErrOvertaken) {
				err = nil
			}
			if err != nil {
				err = fmt.Errorf("can't serve %v: %w", a.sources[i], err)
			}
			events <- loadEvent{i, true, err}
			release()
		}()
	}
}
