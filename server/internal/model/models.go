package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Models are the models of a process, the default one first.
type Models []*Served

// Validate returns an error if two models have one name, or there is none.
func (m Models) Validate() error {
	if len(m) == 0 {
		return fmt.Errorf("model: there is none")
	}
	for i, each := range m {
		at := slices.IndexFunc(m, func(other *Served) bool { return other.Name() == each.Name() })
		if at < i {
			return fmt.Errorf("two models are called %q (%v and %v), and their names are in their addresses; rename one", each.Name(), m[at].source, each.source)
		}
	}
	return nil
}

// Default is the model that requests get which name none.
func (m Models) Default() *Served { return m[0] }

// Find returns the model with this name, or an error that names those there are.
func (m Models) Find(name string) (*Served, error) {
	names := make([]string, len(m))
	for i, each := range m {
		if each.Name() == name {
			return each, nil
		}
		names[i] = strconv.Quote(each.Name())
	}
	return nil, fmt.Errorf("no model is called %q; there is %s", name, strings.Join(names, ", "))
}

// Ready tells whether each model has a version that is ready.
func (m Models) Ready() bool {
	return !slices.ContainsFunc(m, func(each *Served) bool { return !each.Ready() })
}

// StopWaiting makes batches go without waiting for company; see batch.Batcher.StopWaiting.
func (m Models) StopWaiting() {
	for _, each := range m {
		each.StopWaiting()
	}
}

// Close closes all.
func (m Models) Close() {
	for _, each := range m {
		each.Close()
	}
}
