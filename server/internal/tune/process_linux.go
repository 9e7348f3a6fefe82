package tune

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel send SIGTERM to the process when this process ends in any way, by SIGKILL too. SIGTERM
// rather than SIGKILL lets a server remove its temporary files.
//
// The kernel watches the thread that starts the process, not this whole process, so that thread must outlive it.
func endWithParent(process *exec.Cmd) {
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
