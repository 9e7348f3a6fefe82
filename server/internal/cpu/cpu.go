// Package cpu shares the machine's cores: which goroutines may do CPU-bound work (Slots), how models divide the cores
// (Shares), how background work stays out of the way (InBackground, Throttle), and how many threads a forward may use
// (ChooseThreads).
package cpu

import "runtime"

// Cores returns how many cores the process may use, affinity and cgroup limits included. It must be called before
// GOMAXPROCS is changed.
func Cores() int { return runtime.GOMAXPROCS(0) }

// SlotCount returns how many images should be decoded or encoded at a time, and how many goroutines Go should run at a
// time, on this many cores: a quarter more, and at least one more. A goroutine that returns from C waits until Go can run
// it, and holds its slot meanwhile; with no more slots than cores, a core is idle for that time. With two cores, three
// slots answered 12 % more images of 590x480 than two, at 16 clients and a model that negates.
func SlotCount(cores int) int { return cores + max(1, cores/4) }
