package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dustin/go-humanize"
)

// The tests in this file are about admission: what is refused, and when.

// Where decoding is slower than the model, what is too much is refused at once, and nothing that was accepted is lost.
func TestOverloadRefusesAndLosesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, "--log-level", "error", module("negate.pt"))
	photo := photograph(t, "jpeg-large.jpg")
	var answered, refused atomic.Int64
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			for range 10 {
				r, err := s.try(http.MethodPut, "/image", bytes.NewReader(photo))
				seconds, _ := strconv.Atoi(r.header.Get("Retry-After"))
				switch {
				case err == nil && r.status == http.StatusOK:
					answered.Add(1)
				case err == nil && r.status == http.StatusServiceUnavailable && string(r.body) == "I'm too busy" && seconds >= 1:
					refused.Add(1)
				default:
					t.Errorf("got %d %q, Retry-After %d, %v", r.status, r.body, seconds, err)
				}
			}
		})
	}
	wg.Wait()
	if answered.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d answered, %d refused", answered.Load(), refused.Load())
	}
}

// What waits to be decoded counts against the queue. Here an image waits for company and keeps its pixels meanwhile, so
// there is no memory to decode a second one.
func TestWhatWaitsForDecodingCountsAgainstTheQueue(t *testing.T) {
	t.Parallel()
	photo := photograph(t, "jpeg-large.jpg")
	need := decodeMemory(t, photo)
	s := start(t, "--size", "keep", "--wait-policy", "fixed", "--max-wait", "1h", "--max-batch-size", "3",
		"--max-queue-size", "2", "--max-decode-memory", strconv.FormatInt(need, 10), module("negate.pt"))
	responses := make(chan response, 3)
	for range 3 {
		go func() {
			r, err := s.try(http.MethodPut, "/image", bytes.NewReader(photo))
			if err != nil {
				t.Error(err)
			}
			responses <- r
		}()
	}
	expectError(t, <-responses, http.StatusServiceUnavailable, "I'm too busy")
	drained := s.drain() // which ends the wait for company
	for range 2 {
		expectImage(t, <-responses)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// decodeMemory returns how much memory the decode of an image takes, as the refusal of a server says that has none.
func decodeMemory(t *testing.T, photo []byte) int64 {
	t.Helper()
	s := start(t, "--size", "keep", "--max-decode-memory", "1", module("negate.pt"))
	r := s.put(photo)
	text, _ := strings.CutPrefix(string(r.body), "decoding the image takes ")
	text, _, found := strings.Cut(text, " of memory")
	need, err := humanize.ParseBytes(text)
	if !found || err != nil || r.status != http.StatusRequestEntityTooLarge {
		t.Fatalf("got %d %q, want the memory that the image takes", r.status, r.body)
	}
	return int64(need) + 1<<20 // the text is rounded
}

// An image that could never be decoded within the limit is refused, and the response names the flag.
func TestAnImageThatNeedsMoreThanTheDecodeMemoryIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, "--max-decode-memory", "2MiB", module("negate.pt"))
	expectError(t, s.put(progressiveBomb(2000, 2000, 3)), http.StatusRequestEntityTooLarge, "--max-decode-memory is 2.0 MiB")
	expectImage(t, s.put(photograph(t, "jpeg-small.jpg")))
}

// Clients that announce large bodies and send little can't take more memory than the limit. Others are refused meanwhile.
func TestBodiesShareTheirMemory(t *testing.T) {
	t.Parallel()
	s := start(t, "--max-receive-memory", "1MiB", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	var slow []net.Conn
	for range 4 { // 256 KiB each
		slow = append(slow, s.trickle(4<<20))
	}
	awaitResponse(t, func() bool {
		r := s.put(photo)
		return r.status == http.StatusServiceUnavailable && string(r.body) == "I'm too busy" && r.header.Get("Retry-After") == "1"
	})
	_ = slow[0].Close()
	awaitResponse(t, func() bool { return s.put(photo).status == http.StatusOK })
}

// trickle opens a connection and sends the first bytes of an image of a given length.
func (g target) trickle(length int) net.Conn {
	g.t.Helper()
	c := g.dial()
	head := fmt.Sprintf("PUT /image HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n\xff\xd8\xff", length)
	if _, err := io.WriteString(c, head); err != nil {
		g.t.Fatal(err)
	}
	return c
}

// awaitResponse calls f until it returns true.
func awaitResponse(t *testing.T, f func() bool) {
	t.Helper()
	if !poll(f) {
		t.Fatal("the expected response doesn't come")
	}
}

// A body that comes too slowly to share a batch delays nobody, though a batch may wait for an hour.
func TestATricklingBodyDelaysNobody(t *testing.T) {
	t.Parallel()
	s := start(t, "--max-wait", "1h", module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	slow := s.trickle(4 << 20)
	for range 20 {
		expectImage(t, s.put(photo))
		if _, err := slow.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
	}
}
