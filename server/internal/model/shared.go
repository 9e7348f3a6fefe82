package model

import (
	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A Host is what the models of a process share, and what the process says of all of them.
type Host struct {
	Slots  *cpu.Slots // decode and encode for all
	Cores  int        // that the process may use
	Shares *cpu.Shares

	MaxPixels     int64  // of a picture as sent
	RefusePalette bool   // answer palette pictures with imagecodec.NotRGB
	PackageFolder string // see torch.Options
	// MaxMemory bounds the weights of a version's copies together, in bytes. 0: no limit.
	MaxMemory int64
	// TimedRuns is how often each batch size is timed after the warm-up; 0: not at all.
	TimedRuns int
	// Override, if set, has the last word on each version's settings.
	Override func(*settings.Settings)

	Log zerolog.Logger
}
