package listen

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	// mostByDefault bounds the default number of connections. An idle connection takes about 20 KiB, so this many take
	// 320 MiB.
	mostByDefault = 16384
	// reserve is how many file descriptors remain for other uses: loading a model, reading settings, watching folders.
	reserve = 64
)

// DefaultConnections returns how many connections the limit of file descriptors allows for the main address and for the
// admin API, each at least 1.
func DefaultConnections() (images, admin int) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return mostByDefault, reserve
	}
	return share(limit.Cur, descriptors())
}

// share divides the descriptors below limit that aren't open. Where there are few, a quarter remains for other uses.
func share(limit uint64, open int) (images, admin int) {
	free := int(min(limit, 2*mostByDefault)) - open
	free -= min(reserve, max(free/4, 2))
	admin = min(reserve, max(free/4, 1))
	// Each listener holds one connection more while it waits for a place.
	images = free - admin - 2
	return min(max(images, 1), mostByDefault), admin
}

// descriptors returns how many descriptors are open, and those that the listeners and the runtime's poller will open.
func descriptors() int {
	const later = 4
	entries, err := os.ReadDir("/dev/fd") // on Linux a link to /proc/self/fd
	if err != nil {
		return reserve
	}
	return len(entries) + later
}
