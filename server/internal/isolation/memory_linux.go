package isolation

import (
	"bufio"
	"bytes"
	"os"
	"path"
	"strconv"
	"strings"
)

// AvailableMemory returns how many bytes this process could still take: of the machine, and within its cgroup's limit. 0:
// unknown.
func AvailableMemory() int64 {
	available := machineMemory()
	for _, c := range cgroups() {
		limit, ok := readNumber(path.Join(c.folder, c.limit))
		used, known := readNumber(path.Join(c.folder, c.usage))
		if ok && known && limit-used < available {
			available = max(limit-used, 1)
		}
	}
	return available
}

// machineMemory returns MemAvailable of /proc/meminfo in bytes; 0: unknown.
func machineMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		if value, found := bytes.CutPrefix(line, []byte("MemAvailable:")); found {
			kib, err := strconv.ParseInt(strings.Fields(string(value))[0], 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// A cgroup is a folder that may limit this process's memory.
type cgroup struct{ folder, limit, usage string }

// cgroups returns this process's cgroup of memory, of both versions, as seen from the host and from inside a container.
func cgroups() []cgroup {
	file, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	var found []cgroup
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), ":", 3) // number:controllers:path
		if len(fields) != 3 {
			continue
		}
		switch {
		case fields[1] == "":
			for _, folder := range []string{path.Join("/sys/fs/cgroup", fields[2]), "/sys/fs/cgroup"} {
				found = append(found, cgroup{folder, "memory.max", "memory.current"})
			}
		case strings.Contains(","+fields[1]+",", ",memory,"):
			for _, folder := range []string{path.Join("/sys/fs/cgroup/memory", fields[2]), "/sys/fs/cgroup/memory"} {
				found = append(found, cgroup{folder, "memory.limit_in_bytes", "memory.usage_in_bytes"})
			}
		}
	}
	return found
}

// readNumber returns the number in a file; false if it has none, such as "max".
func readNumber(name string) (int64, bool) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}
