package cli

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/torchherd/torchherd/torch"
)

// setLibraries executes the program again, with the same process ID, if the environment lacks some of the settings of the
// libraries.
func setLibraries() error {
	missing := torch.MissingEnvironment()
	if len(missing) == 0 {
		return nil
	}
	program, err := os.Executable()
	if err == nil {
		err = syscall.Exec(program, os.Args, append(os.Environ(), missing...))
	}
	return fmt.Errorf("restart with library settings: %w; set %s in the environment", err, strings.Join(missing, " "))
}
