package logging_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/logging"
)

// Go ends a process that writes to a pipe without a reader on its stdout or stderr only, so these tests need no handler of
// SIGPIPE.

// newPipe returns a pipe whose ends are closed by the test's end.
func newPipe(t testing.TB) (reading, writing *os.File) {
	t.Helper()
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = reading.Close(), writing.Close() })
	return reading, writing
}

// newLog returns a logger at level info in the JSON format.
func newLog(t testing.TB, file *os.File) (zerolog.Logger, *logging.Writer) {
	t.Helper()
	log, writer, err := logging.NewLog(file, logging.JSON, "info")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { writer.Close(0) })
	return log, writer
}

// An entry is a line of these tests.
type entry struct {
	Level, Message string
	N, Dropped     int
}

func parse(t *testing.T, line []byte) entry {
	t.Helper()
	var e entry
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatalf("%v in the line %q", err, line)
	}
	return e
}

func TestLinesAreWrittenInOrder(t *testing.T) {
	const lines = 20_000
	reading, writing := newPipe(t)
	log, writer := newLog(t, writing)
	go func() {
		for n := range lines {
			log.Info().Int("n", n).Msg("")
			if n%1000 == 0 {
				log.Error().Int("n", n).Msg("again")
			}
		}
		writer.Close(time.Minute)
		_ = writing.Close()
	}()
	next := 0
	for scanner := bufio.NewScanner(reading); scanner.Scan(); {
		switch e := parse(t, scanner.Bytes()); {
		case e.Dropped > 0:
			next += e.Dropped // also lines at level error, so only a lower bound
		case e.N < next-lines/1000 || e.Message == "again" && e.N > next:
			t.Fatalf("line %d after %d", e.N, next)
		default:
			next = max(next, e.N)
		}
	}
	if next < lines-1 {
		t.Errorf("the last line is %d, want %d", next, lines-1)
	}
}

// While nobody reads, lines are dropped without delay. When the reader goes on, it gets the oldest lines, the number of
// those dropped in their place, and later lines.
func TestStuckReaderCostsLinesOnly(t *testing.T) {
	const lines = 100_000 // some MiB
	reading, writing := newPipe(t)
	log, writer := newLog(t, writing)
	for n := range lines {
		log.Info().Int("n", n).Str("text", strings.Repeat("x", 50)).Msg("")
	}
	scanner := bufio.NewScanner(reading)
	read := func() entry {
		if !scanner.Scan() {
			t.Fatalf("the log ended: %v", scanner.Err())
		}
		return parse(t, scanner.Bytes())
	}
	next := 0
	e := read()
	for ; e.Dropped == 0; e = read() {
		if e.N != next {
			t.Fatalf("line %d, want %d", e.N, next)
		}
		next++
	}
	if next+e.Dropped != lines || e.Level != "warn" {
		t.Errorf("%d lines and %+v, want %d lines in all", next, e, lines)
	}
	if next > 40_000 {
		t.Errorf("%d lines were kept, so memory isn't bounded", next)
	}
	log.Info().Int("n", lines).Msg("")
	if e := read(); e.N != lines {
		t.Errorf("then %+v, want line %d", e, lines)
	}
	writer.Close(time.Minute)
}

// A line at level error is in the pipe when the call returns, so that it outlives a crash. With a stuck reader such calls
// return as well.
func TestErrorsAreWrittenThrough(t *testing.T) {
	reading, writing := newPipe(t)
	log, _ := newLog(t, writing)
	log.Info().Msg("before")
	log.Error().Msg("now")
	if err := syscall.SetNonblock(int(reading.Fd()), true); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1000)
	n, err := syscall.Read(int(reading.Fd()), data)
	if lines := strings.Split(string(data[:max(n, 0)]), "\n"); err != nil || len(lines) != 3 || !strings.Contains(lines[1], "now") {
		t.Errorf("read %q, %v", lines, err)
	}
	for range 100_000 {
		log.Error().Msg("nobody reads this")
	}
}

// Close gives up on a stuck reader after its limit, and on one that has gone at once.
func TestCloseEnds(t *testing.T) {
	_, writing := newPipe(t)
	log, writer := newLog(t, writing)
	log.Info().Str("text", strings.Repeat("x", 1<<19)).Msg("")
	writer.Close(10 * time.Millisecond)

	reading, writing := newPipe(t)
	log, writer = newLog(t, writing)
	_ = reading.Close()
	log.Info().Msg("to nobody")
	writer.Close(time.Hour)
	log.Info().Msg("after Close")
}

// What came while a named pipe had no reader reaches its next reader.
func TestAReaderMayReturn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := os.OpenFile(path, os.O_RDWR, 0) // doesn't wait for a writer
	if err != nil {
		t.Fatal(err)
	}
	writing, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writing.Close() }()
	log, _ := newLog(t, writing)
	_ = first.Close()
	log.Error().Msg("meanwhile")
	second, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	line, err := bufio.NewReader(second).ReadBytes('\n')
	if err != nil || parse(t, line).Message != "meanwhile" {
		t.Errorf("the second reader read %q, %v", line, err)
	}
}

// The cost of one line for who logs it, with a reader at the other end: two goroutines log without a pause, or with as much
// work in between as a small request has. lost-% is the share of lines that were dropped.
func BenchmarkLine(b *testing.B) {
	for _, work := range []time.Duration{0, 50 * time.Microsecond} {
		for _, mode := range []string{"direct", "writer"} {
			b.Run(fmt.Sprintf("work=%v/mode=%s", work, mode), func(b *testing.B) { benchmarkLine(b, work, mode == "direct") })
		}
	}
}

func benchmarkLine(b *testing.B, work time.Duration, direct bool) {
	reading, writing := newPipe(b)
	lines := make(chan int)
	go func() {
		count := 0
		for scanner := bufio.NewScanner(reading); scanner.Scan(); {
			count++
		}
		lines <- count
	}()
	log, writer := newLog(b, writing)
	if direct {
		log = zerolog.New(writing).With().Timestamp().Logger()
	}
	var spent atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var logging sync.WaitGroup
	each := b.N/2 + 1
	for range 2 {
		logging.Go(func() {
			for range each {
				start := time.Now()
				log.Info().Str("request_id", "0123456789abcdef").Str("method", "PUT").Str("path", "/image").Int("status", 200).
					Float64("ms", 1.234).Float64("decode_ms", 0.5).Float64("forward_ms", 0.5).Int("batch", 2).Msg("request")
				done := time.Now()
				spent.Add(int64(done.Sub(start)))
				for time.Since(done) < work {
				}
			}
		})
	}
	logging.Wait()
	b.StopTimer()
	writer.Close(time.Minute)
	_ = writing.Close()
	b.ReportMetric(float64(spent.Load())/float64(2*each), "ns/line")
	b.ReportMetric(100*(1-float64(<-lines)/float64(2*each)), "lost-%")
}
