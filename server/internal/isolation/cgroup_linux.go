package isolation

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
)

// cgroupPrefix begins the names of the children's cgroups.
const cgroupPrefix = "torchherd-runner-"

// joinCgroup puts a process into a cgroup of its own with a limit of memory in bytes, below this process's cgroup, so that
// the kernel ends the process rather than the server when it takes more. It returns the cgroup's folder; empty: that isn't
// permitted here, as in most containers.
func joinCgroup(pid int, limit int64) string {
	for _, parent := range cgroups() {
		removeStale(parent.folder)
		folder := path.Join(parent.folder, cgroupPrefix+strconv.Itoa(pid))
		if os.Mkdir(folder, 0o755) != nil {
			continue
		}
		// The file of the limit exists only where the parent lets its children have limits.
		err := os.WriteFile(path.Join(folder, parent.limit), fmt.Appendln(nil, limit), 0)
		if err == nil {
			err = os.WriteFile(path.Join(folder, "cgroup.procs"), fmt.Appendln(nil, pid), 0)
		}
		if err == nil {
			return folder
		}
		_ = os.Remove(folder)
	}
	return ""
}

// removeStale removes the cgroups that a killed server has left. One with a process can't be removed.
func removeStale(parent string) {
	stale, _ := filepath.Glob(path.Join(parent, cgroupPrefix+"*"))
	for _, folder := range stale {
		if _, err := os.Stat("/proc/" + folder[len(path.Join(parent, cgroupPrefix)):]); err != nil {
			_ = os.Remove(folder)
		}
	}
}
