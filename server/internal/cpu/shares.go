package cpu

import (
	"fmt"
	"math"
	"sync"
)

// Shares divides the cores between models by their weights.
//
// On the CPU the operating system does the dividing: a model's runner threads, and the threads that those start for a
// forward, have a nice value, by which Linux weights threads that compete for a core. So a model has all cores while the
// others are idle, and a long forward of one model doesn't block another, as it would if forwards took turns.
//
// Shares is safe for concurrent use.
type Shares struct {
	mu      sync.Mutex
	weights map[string]int
}

// NewShares returns Shares without models.
func NewShares() *Shares { return &Shares{weights: map[string]int{}} }

// Set records the weight of a model, 1 or more. It applies to threads that call Enter later.
func (s *Shares) Set(model string, weight int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weights[model] = weight
}

// niceStep is the factor by which Linux lowers a thread's weight with each step of nice (kernel/sched/core.c,
// sched_prio_to_weight).
const niceStep = 1.25

// maxNice is the highest nice value, about a seventieth of the weight at nice 0.
const maxNice = 19

// Nice returns the nice value of the threads of a model that Set has recorded: 0 for the model with the largest weight.
func (s *Shares) Nice(model string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	largest := 1
	for _, weight := range s.weights {
		largest = max(largest, weight)
	}
	steps := math.Log(float64(largest)/float64(s.weights[model])) / math.Log(niceStep)
	return min(int(math.Round(steps)), maxNice)
}

// Enter gives the calling thread the nice value of a model that Set has recorded. The goroutine must be locked to its
// thread and must never unlock it: an unprivileged process cannot lower a nice value again.
func (s *Shares) Enter(model string) error {
	return SetNice(s.Nice(model))
}

// SetNice gives the calling thread a nice value, 0 to 19. As Enter, it can't be undone.
func SetNice(nice int) error {
	if nice == 0 {
		return nil
	}
	if err := setNice(nice); err != nil {
		return fmt.Errorf("cpu: setting the nice value of a thread to %d: %w", nice, err)
	}
	return nil
}
