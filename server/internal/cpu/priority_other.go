//go:build !linux

package cpu

// setNice does nothing: only Linux has a nice value for each thread.
func setNice(int) error { return nil }

// setIdlePriority does nothing, for the same reason.
func setIdlePriority() {}
