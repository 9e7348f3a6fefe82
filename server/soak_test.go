//go:build soak

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// Several clients send images of all kinds. After all requests, the resident set of the process must be within 10 % of its
// size after a tenth of them. `make soak` runs this test.
func TestSoak(t *testing.T) {
	requests := 20000
	if text := os.Getenv("REQUESTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 100 {
			t.Fatalf("REQUESTS=%s: must be a number, 100 or more", text)
		}
		requests = n
	}
	s := startProcess(t, "--max-queue-size", "16", "--log-level", "info", "--size", "128x128")
	var images [][]byte
	for _, g := range goldens.Load(t).Images {
		images = append(images, goldens.Read(t, g.File))
	}
	images = append(images, []byte("not an image"), images[0][:5000], bomb(t))

	const clients = 8
	every := int64(requests / 20)
	var sent, good, refused atomic.Int64
	var mu sync.Mutex
	resident := map[int64]int64{}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				n := sent.Add(1)
				if n > int64(requests) {
					return
				}
				r, err := s.try(http.MethodPut, "/image", bytes.NewReader(images[int(n)*7%len(images)]))
				if err != nil {
					t.Error(err)
					return
				}
				switch r.status {
				case 200:
					good.Add(1)
				case 413, 415, 422, 503:
					refused.Add(1)
				default:
					t.Errorf("got %d %s, want 200, or a refusal with 413, 415, 422 or 503", r.status, r.body)
				}
				if n%every == 0 {
					mu.Lock()
					resident[n] = s.memory("VmRSS") >> 10
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	largest := int64(0)
	for _, kib := range resident {
		largest = max(largest, kib)
	}
	for n := every; n <= int64(requests); n += every {
		fmt.Printf("%6d requests  %6.1f MiB  %s\n", n, float64(resident[n])/1024, strings.Repeat("#", int(50*resident[n]/largest)))
	}
	early, late := resident[2*every], resident[int64(requests)/every*every]
	change := float64(late)/float64(early) - 1
	fmt.Printf("%d images processed, %d refused; from %d to %d requests the resident set changed by %+.1f %%\n",
		good.Load(), refused.Load(), 2*every, requests, 100*change)
	if change > 0.1 || change < -0.1 {
		t.Errorf("the resident set changed by %+.1f %%, want at most 10 %%", 100*change)
	}
}
