package cli

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// librarySettings are how glibc and OpenMP's GNU library behave well in a server. They read them from the environment
// as the process starts, and take them in no other way.
var librarySettings = []struct{ name, value string }{
	// A forward's tensors are large, and glibc gives large blocks back to the kernel whenever they are freed, to get
	// them back a moment later page by page. Here they are taken from its one heap and kept.
	{"MALLOC_MMAP_MAX_", "0"},
	{"MALLOC_TRIM_THRESHOLD_", "1099511627776"},
	{"MALLOC_ARENA_MAX", "1"},
	// A thread of a forward that waits for the others spins, by default for milliseconds, in which the others may be
	// waiting for its core. After this many turns (some ten microseconds) it sleeps.
	{"GOMP_SPINCOUNT", "10000"},
}

// missingLibrarySettings returns, as NAME=value, those settings that the environment doesn't have. Whoever sets one
// differently has it differently.
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

// setLibraries starts the process anew, as the same process for its parent, if its environment lacks some of the settings.
func setLibraries() error {
	missing := missingLibrarySettings()
	if len(missing) == 0 {
		return nil
	}
	program, err := os.Executable()
	if err == nil {
		err = syscall.Exec(program, os.Args, append(os.Environ(), missing...))
	}
	return fmt.Errorf("the process can't be started anew with MALLOC_ and GOMP_ settings: %w; set them in the environment yourself", err)
}
