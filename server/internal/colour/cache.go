package colour

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
)

// A Space is what a file states about its colours, in one of three ways. The zero Space states nothing.
type Space struct {
	Profile []byte // ICC
	// Code points of ITU-T H.273.
	Primaries, Transfer uint8
	// PNG's gAMA, and its cHRM or nil.
	Gamma          float64
	Chromaticities *Primaries
}

// Stated reports whether the Space states anything.
func (s *Space) Stated() bool {
	return len(s.Profile) > 0 || s.Primaries != 0 || s.Transfer != 0 || s.Gamma != 0
}

// kept is how many Transforms a Cache keeps: those of cameras, phones and editors in common use.
const kept = 16

// A Cache keeps the Transforms that were used last, and the errors of broken profiles. The zero Cache is ready to use. It is safe
// for concurrent use.
type Cache struct {
	mu      sync.Mutex
	entries []entry // the last used first
}

type entry struct {
	key       key
	transform *Transform
	err       error
}

type key struct {
	profile             [sha256.Size]byte
	channels            Channels
	primaries, transfer uint8
	gamma               float64
	chromaticities      Primaries
}

// Transform returns the Transform of a Space for pixels of a kind. Errors: those of FromICC, FromCICP and FromGamma.
func (c *Cache) Transform(ctx context.Context, s Space, channels Channels) (*Transform, error) {
	k := key{channels: channels, primaries: s.Primaries, transfer: s.Transfer, gamma: s.Gamma}
	if len(s.Profile) > 0 {
		k.profile = sha256.Sum256(s.Profile)
	}
	if s.Chromaticities != nil {
		k.chromaticities = *s.Chromaticities
	}
	if e, ok := c.find(k); ok {
		return e.transform, e.err
	}
	// Two requests with a new profile make it twice. That costs less than a request that waits for another one's.
	e := entry{key: k}
	switch {
	case len(s.Profile) > 0:
		e.transform, e.err = FromICC(ctx, s.Profile, channels)
	case s.Gamma != 0:
		e.transform, e.err = FromGamma(s.Gamma, s.Chromaticities)
	default:
		e.transform, e.err = FromCICP(s.Primaries, s.Transfer)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c.add(e)
	return e.transform, e.err
}

func (c *Cache) find(k key) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.entries, func(e entry) bool { return e.key == k })
	if i < 0 {
		return entry{}, false
	}
	e := c.entries[i]
	copy(c.entries[1:i+1], c.entries[:i])
	c.entries[0] = e
	return e, true
}

func (c *Cache) add(e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = slices.Insert(c.entries, 0, e)
	if len(c.entries) > kept {
		clear(c.entries[kept:])
		c.entries = c.entries[:kept]
	}
}
