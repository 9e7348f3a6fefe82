// Package memory shares the memory of the process: how much there is (Limit), how much a kind of work may use at a time
// (Budget), and when unused memory goes back to the system (Trimmer).
package memory

import (
	"fmt"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// goShare is the part of Limit at which Go's garbage collector starts to work harder. The other half is for what Go doesn't
// manage: the weights of models, the tensors of forward passes, and libjpeg's buffers.
const goShare = 0.5

// unknownLimit is used where neither a cgroup nor the system says how much memory there is.
const unknownLimit = 4 << 30

// Limit returns how many bytes of memory the process may use: the machine's memory, or the limit of its cgroup if that is
// lower.
func Limit() int64 {
	limit := uint64(math.MaxInt64)
	for _, provider := range []memlimit.Provider{memlimit.FromCgroup, memlimit.FromSystem} {
		if n, err := provider(); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	if limit == math.MaxInt64 {
		return unknownLimit
	}
	return int64(limit)
}

// LimitGo sets Go's soft memory limit to its share of limit bytes. If the environment has GOMEMLIMIT, that stays.
func LimitGo(limit int64) error {
	_, err := memlimit.Set(memlimit.WithProvider(memlimit.Limit(uint64(limit))), memlimit.WithRatio(goShare))
	if err != nil {
		return fmt.Errorf("memory: setting Go's memory limit: %w", err)
	}
	return nil
}
