//go:build !linux

package model

// setNice does nothing: only Linux has a nice value for each thread.
func setNice(int) error { return nil }

// yieldAlways does nothing likewise.
func yieldAlways() {}
