package model

import "golang.org/x/sys/unix"

// setNice sets the nice value of the calling thread.
func setNice(nice int) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, nice) }

// yieldAlways lets every other thread go before the calling one. A thread of the policy SCHED_IDLE leaves its core at
// once when another wants it; one of the highest nice value first uses its slice up, some milliseconds, again and again
// between the many short parts of the others' forwards. (Beside such a one, in endless computing, a server did 30 instead
// of 42 pictures/s on two cores; beside one of SCHED_IDLE it kept the 35 that it was asked for.)
func yieldAlways() {
	// Where it isn't allowed the work is done too, only less gently.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}
