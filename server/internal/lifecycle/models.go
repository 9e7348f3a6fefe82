package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Models are the models of a process; the first is the default.
type Models []*Model

// Validate returns an error if there is no model, or if two have the same name.
func (m Models) Validate() error {
	if len(m) == 0 {
		return errors.New("no models configured")
	}
	for i, each := range m {
		at := slices.IndexFunc(m, func(other *Model) bool { return other.Name() == each.Name() })
		if at < i {
			return fmt.Errorf("two models are named %q (%v and %v), and a model's URL has its name; rename one", each.Name(), m[at].source, each.source)
		}
	}
	return nil
}

// Default is the model for requests that name none.
func (m Models) Default() *Model { return m[0] }

// Find returns the model with this name. The error names the models that exist.
func (m Models) Find(name string) (*Model, error) {
	names := make([]string, len(m))
	for i, each := range m {
		if each.Name() == name {
			return each, nil
		}
		names[i] = strconv.Quote(each.Name())
	}
	return nil, fmt.Errorf("model %q not found; available: %s", name, strings.Join(names, ", "))
}

// A Require says which models a server needs to be ready.
type Require string

// The values of Require.
const (
	All Require = "all" // each model
	Any Require = "any" // one of them
)

// Ready returns nil if each model, or with Any one of them, has a ready version and is healthy, and else an error:
// ErrNotReady or an *UnhealthyError.
func (m Models) Ready(require Require) error {
	var first error
	for _, each := range m {
		err := each.Healthy()
		if !each.Ready() {
			err = fmt.Errorf("%s: %w", each.Name(), ErrNotReady)
		}
		if err == nil && require == Any {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// StopWaiting makes the batches of all models start without waiting for company; see batch.Batcher.StopWaiting.
func (m Models) StopWaiting() {
	for _, each := range m {
		each.StopWaiting()
	}
}

// Close closes all models, at the same time.
func (m Models) Close() {
	var closing sync.WaitGroup
	for _, each := range m {
		closing.Go(each.Close)
	}
	closing.Wait()
}
