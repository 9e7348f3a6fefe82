package torch

import (
	"os"
	"runtime"
)

// environment configures glibc's allocator and GNU OpenMP for a server. Both libraries read it only when the process
// starts.
var environment = []struct{ name, value string }{
	// By default glibc returns large blocks to the kernel when they are freed. The tensors of a forward pass are large, so
	// each pass would fault the same pages in again. These settings allocate from one heap and never return its memory.
	{"MALLOC_MMAP_MAX_", "0"},
	{"MALLOC_TRIM_THRESHOLD_", "1099511627776"},
	{"MALLOC_ARENA_MAX", "1"},
	// A thread of a forward pass that waits for the others spins, by default for milliseconds, while the others may need its
	// core. With this setting it sleeps after about ten microseconds.
	{"GOMP_SPINCOUNT", "10000"},
}

// MissingEnvironment returns, as NAME=value, the environment variables that a process should be started with to run models
// fast, and that this process's environment doesn't set. A value that the user set stays.
func MissingEnvironment() []string {
	if runtime.GOOS != "linux" {
		return nil
	}
	var missing []string
	for _, setting := range environment {
		if _, set := os.LookupEnv(setting.name); !set {
			missing = append(missing, setting.name+"="+setting.value)
		}
	}
	return missing
}
