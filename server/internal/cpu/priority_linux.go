package cpu

import "golang.org/x/sys/unix"

// setNice sets the nice value of the calling thread.
func setNice(nice int) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, nice) }

// setIdlePriority makes the calling thread run only when no other thread wants its core. A SCHED_IDLE thread leaves its
// core at once; a thread with the highest nice value first uses up its slice of some milliseconds, again and again
// between the many short parts of a forward. Beside such a thread, computing without end, a server answered 30 instead of
// 42 images/s on two cores; beside a SCHED_IDLE thread it kept the 35 that it was asked for.
func setIdlePriority() {
	// Where this isn't permitted, the work is done all the same, at the usual priority.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}
