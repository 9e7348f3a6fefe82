package cli

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// librarySettings configure glibc's allocator and GNU OpenMP for a server. Both libraries read them only from the
// environment, when the process starts.
var librarySettings = []struct{ name, value string }{
	// By default glibc returns large blocks to the kernel when they are freed. The tensors of a forward pass are large, so
	// each pass would fault the same pages in again. These settings allocate from one heap and never return its memory.
	{"MALLOC_MMAP_MAX_", "0"},
	{"MALLOC_TRIM_THRESHOLD_", "1099511627776"},
	{"MALLOC_ARENA_MAX", "1"},
	// A thread of a forward pass that waits for the others spins, by default for milliseconds, while the others may need its
	// core. With this setting it sleeps after about ten microseconds.
	{"GOMP_SPINCOUNT", "10000"},
}

// missingLibrarySettings returns, as NAME=value, the settings that the environment doesn't set. A value that the user set
// stays.
func missingLibrarySettings() []string {
	if runtime.GOOS != "linux" {
		return nil
	}
	var missing []string
	for _, setting := range librarySettings {
		if _, set := os.LookupEnv(setting.name); !set {
			missing = append(missing, setting.name+"="+setting.value)
		}
	}
	return missing
}

// setLibraries executes the program again, with the same process ID, if the environment lacks some of the settings.
func setLibraries() error {
	missing := missingLibrarySettings()
	if len(missing) == 0 {
		return nil
	}
	program, err := os.Executable()
	if err == nil {
		err = syscall.Exec(program, os.Args, append(os.Environ(), missing...))
	}
	return fmt.Errorf("restart with library settings: %w; set %s in the environment", err, strings.Join(missing, " "))
}
