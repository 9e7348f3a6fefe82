package model

import (
	"fmt"
	"math"
	"sync"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/picture"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A Host is what the models of a process share, and what the process says of all of them.
type Host struct {
	Workers *picture.Workers // decode and encode for all
	Cores   int              // that the process may use
	Shares  *Shares

	MaxPixels     int64  // of a picture as sent
	RefusePalette bool   // answer palette pictures with picture.NotRGB
	PackageFolder string // see torch.Options
	// MaxMemory bounds the weights of a version's copies together, in bytes. 0: no limit.
	MaxMemory int64
	// TimedRuns is how often each batch size is timed after the warm-up; 0: not at all.
	TimedRuns int
	// Override, if set, has the last word on each version's settings.
	Override func(*settings.Settings)

	Log zerolog.Logger
}

// Shares divides the cores between models by their weights. A weight is that of a model's last load.
//
// On the CPU the system does the dividing: a runner's thread, and those that it starts for a forward, have a nice value,
// by which Linux weights threads that compete for a core. So a model has all cores while the others are idle, and a long
// forward of one doesn't keep another from running, as it would if forwards took turns.
type Shares struct {
	mu      sync.Mutex
	weights map[string]int
}

// NewShares makes Shares among no models.
func NewShares() *Shares { return &Shares{weights: map[string]int{}} }

func (s *Shares) set(model string, weight int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weights[model] = weight
}

// perNice is by how much Linux's weight of a thread falls with each step of nice (kernel/sched/core.c,
// sched_prio_to_weight).
const perNice = 1.25

// maxNice is the nice value of the lightest thread, about a seventieth of the weight at 0.
const maxNice = 19

// nice is the nice value of a model's threads, 0 for the model of the greatest weight.
func (s *Shares) nice(model string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	greatest := 1
	for _, weight := range s.weights {
		greatest = max(greatest, weight)
	}
	steps := math.Log(float64(greatest)/float64(s.weights[model])) / math.Log(perNice)
	return min(int(math.Round(steps)), maxNice)
}

// enter gives the calling thread its model's share. The thread must be its goroutine's alone until it ends: nobody
// unprivileged can take a nice value back.
func (s *Shares) enter(model string) error {
	nice := s.nice(model)
	if nice == 0 {
		return nil
	}
	if err := setNice(nice); err != nil {
		return fmt.Errorf("model: giving a thread the nice value %d: %w", nice, err)
	}
	return nil
}
