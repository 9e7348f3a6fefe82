package logging

import "bytes"

const (
	tailLines   = 1000
	longestLine = 4 << 10 // bytes; the rest of a longer one isn't kept
)

// A tail keeps the last lines of a log. It isn't safe for concurrent use.
type tail struct {
	lines [][]byte // at most tailLines, in a ring
	next  int      // where the next line goes; the oldest is there if the ring is full
}

func (t *tail) add(line []byte) {
	if len(line) > longestLine {
		line = append(bytes.Clone(line[:longestLine-1]), '\n')
	}
	if len(t.lines) < tailLines {
		t.lines = append(t.lines, bytes.Clone(line))
		return
	}
	t.lines[t.next] = append(t.lines[t.next][:0], line...)
	t.next = (t.next + 1) % tailLines
}

// text returns the lines in their order.
func (t *tail) text() []byte {
	return append(bytes.Join(t.lines[t.next:], nil), bytes.Join(t.lines[:t.next], nil)...)
}
