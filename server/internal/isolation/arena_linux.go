package isolation

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Arena is memory that the server and the children of a version share. It is safe for concurrent use, and implements
// imagecodec.Memory.
//
// It is a file in memory (memfd), mapped once at a size that is never used up: only pages that were written to exist. A
// block is reused for sizes of its class, four classes for each doubling, and never split or merged: the address space is
// plentiful, and the pages of free blocks are returned to the system. That happens to all of them when the arena has been
// idle for a while, and to a block that is freed while much is free already.
type Arena struct {
	file   *os.File
	memory []byte // see unmapped

	mu sync.Mutex
	// INVARIANT: a block is either in used or in free. Both have its class, which is its size.
	used  map[int]int   // by offset
	free  map[int][]int // offsets by class, the last one freed last
	next  int           // where the next new block begins
	dirty map[int]bool  // free blocks that may have pages
	// kept is the size of the dirty blocks together.
	kept     int
	lastUse  time.Time
	trimming bool // a timer of trim is running
	closed   bool
	unmapped bool // memory is gone, and its addresses may be others'
}

const (
	arenaSize = 1 << 38 // 256 GiB of address space
	// mostKept is how much free memory keeps its pages while the arena is in use.
	mostKept = 64 << 20
	// idleTime is after how long without a call all free memory loses its pages.
	idleTime = 5 * time.Second
)

// NewArena returns an empty Arena. The caller must Close it.
func NewArena() (*Arena, error) {
	descriptor, err := unix.MemfdCreate("torchherd-images", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		descriptor, err = unix.MemfdCreate("torchherd-images", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("isolation: create shared memory: %w", err)
	}
	file := os.NewFile(uintptr(descriptor), "torchherd-images")
	if err := unix.Ftruncate(descriptor, arenaSize); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("isolation: size shared memory: %w", err)
	}
	memory, err := mapArena(descriptor)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Arena{file: file, memory: memory, used: map[int]int{}, free: map[int][]int{}, dirty: map[int]bool{}}, nil
}

func mapArena(descriptor int) ([]byte, error) {
	memory, err := unix.Mmap(descriptor, 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("isolation: map shared memory (needs %d GiB of address space, see ulimit -v): %w", arenaSize>>30, err)
	}
	return memory, nil
}

// classOf returns the size of the block for a size.
func classOf(size int) int {
	size = max(size, os.Getpagesize())
	step := max(os.Getpagesize(), 1<<(bits.Len(uint(size-1))-3))
	return (size + step - 1) / step * step
}

// Alloc returns size bytes of undefined content. Where the arena is closed or full they are on Go's heap: a batch then
// copies them.
func (a *Arena) Alloc(size int) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	class := classOf(size)
	var offset int
	if blocks := a.free[class]; len(blocks) > 0 {
		offset = blocks[len(blocks)-1]
		a.free[class] = blocks[:len(blocks)-1]
		if a.dirty[offset] {
			delete(a.dirty, offset)
			a.kept -= class
		}
	} else {
		if a.closed || a.next+class > len(a.memory) {
			return make([]byte, size)
		}
		offset = a.next
		a.next += class
	}
	a.used[offset] = class
	return a.memory[offset : offset+size : offset+class]
}

// Free takes back what Alloc returned. It reports false, and does nothing, for memory outside the arena.
func (a *Arena) Free(memory []byte) bool {
	offset, ours := a.offset(memory)
	if !ours {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unmapped {
		return false
	}
	class, used := a.used[offset]
	if !used {
		panic("isolation: memory of an arena was freed twice")
	}
	delete(a.used, offset)
	if a.closed {
		a.unmapIfUnusedLocked()
		return true
	}
	if a.kept+class > mostKept {
		a.punch(offset, class)
	} else {
		a.dirty[offset] = true
		a.kept += class
	}
	a.free[class] = append(a.free[class], offset)
	a.lastUse = time.Now()
	if !a.trimming && a.kept > 0 {
		a.trimming = true
		time.AfterFunc(idleTime, a.trim)
	}
	return true
}

// offset returns where memory begins in the arena, and whether it lies there.
func (a *Arena) offset(memory []byte) (int, bool) {
	if cap(memory) == 0 || len(a.memory) == 0 {
		return 0, false
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(memory)))
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(a.memory)))
	if at < begin || at >= begin+uintptr(len(a.memory)) {
		return 0, false
	}
	return int(at - begin), true
}

// punch returns a block's pages to the system.
func (a *Arena) punch(offset, size int) {
	// Where this fails, the pages stay.
	_ = unix.Fallocate(int(a.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(offset), int64(size))
}

// trim returns the pages of all free blocks if the arena has been idle, or else comes back later.
func (a *Arena) trim() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trimming = false
	if a.closed || a.kept == 0 {
		return
	}
	if idle := time.Since(a.lastUse); idle < idleTime {
		a.trimming = true
		time.AfterFunc(idleTime-idle, a.trim)
		return
	}
	for class, blocks := range a.free {
		for _, offset := range blocks {
			if a.dirty[offset] {
				a.punch(offset, class)
			}
		}
	}
	clear(a.dirty)
	a.kept = 0
}

// Close frees the arena when the last block has been freed. The children that map it must have ended.
func (a *Arena) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	a.free = nil
	err := a.file.Close()
	a.unmapIfUnusedLocked()
	return err
}

func (a *Arena) unmapIfUnusedLocked() {
	if len(a.used) == 0 {
		a.unmapped = true
		_ = unix.Munmap(a.memory)
	}
}
