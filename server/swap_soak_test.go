//go:build soak

package main

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// A server at 80 % of its capacity swaps between two models of one size with different responses: the bundled model, and the
// bundled model with an inverted output. Its input is small, so that 200 swaps take minutes. No request may fail, each
// response must be that of the version it names, and the memory of old versions must be freed. The test prints latencies with
// and without swaps, which it measures in turns. `make swap-soak` runs it.
func TestSwapSoak(t *testing.T) {
	const swapsATurn = 5 // before the rate is measured again
	swaps := 200
	if text := os.Getenv("SWAPS"); text != "" {
		var err error
		if swaps, err = strconv.Atoi(text); err != nil || swaps < 1 {
			t.Fatalf("SWAPS=%s: must be a number, 1 or more", text)
		}
	}
	content := goldens.Read(t, "../models/photo2ink/model.pt")
	models := [][]byte{content, withSettings(t, content, "output-range: [1, 0]\n")}
	file := newModelFile(t)
	file.put(models[0])
	s := startProcess(t, file.path, "--max-queue-size", "256", "--max-wait", "5ms", "--size", "96x96", "--log-level", "info")
	admin := s.admin
	photo := photograph(t, "jpeg-228.jpg")
	version := 1
	swap := func() {
		file.put(models[version%2])
		version++
		if r := admin.post("/v2/repository/models/model/load", ""); r.status != http.StatusOK {
			t.Fatalf("swap to version %d: got %d %s, want 200", version, r.status, r.body)
		}
		s.awaitDrained("model")
	}
	var want [2][]byte
	for range 4 { // until the memory in use is that after a swap
		want[(version-1)%2] = expectVersion(t, s.put(photo), version)
		swap()
	}
	if bytes.Equal(want[0], want[1]) {
		t.Fatal("the two models have the same response")
	}

	// The speed of a machine can change within a minute. Therefore each swap is followed by as much time without one.
	var without, with latencies
	var before int64
	var swapping time.Duration
	for done := 0; done < swaps; done += swapsATurn {
		// A core can be faster in its first seconds under load than later.
		capacity, err := loadgen.Run(t.Context(), loadgen.Config{
			URL: s.url + "/image", Method: http.MethodPut, Images: [][]byte{photo}, Clients: 16,
			WarmUp: 10 * time.Second, Duration: 10 * time.Second, RequestTimeout: time.Minute,
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		rate := 0.8 * capacity.Goodput
		fmt.Printf("%d swaps done; capacity %.1f images/s; the load is %.1f\n", done, capacity.Goodput, rate)
		for range min(swapsATurn, swaps-done) {
			began := time.Now()
			with = append(with, s.openLoop(photo, rate, want, 0, swap)...)
			took := time.Since(began)
			swapping += took
			without = append(without, s.openLoop(photo, rate, want, took, nil)...)
			if before == 0 {
				before = s.memory("VmRSS") >> 10 // after a load, as below
			}
		}
	}
	after := s.memory("VmRSS") >> 10
	fmt.Printf("%d swaps in %.0f s\n", swaps, swapping.Seconds())
	slices.Sort(without)
	slices.Sort(with)
	for _, each := range []struct {
		name string
		latencies
	}{{"without swaps", without}, {"with swaps", with}} {
		fmt.Printf("%-13s %6d requests, p50 %6.1f ms, p90 %6.1f, p99 %6.1f, max %6.1f\n", each.name, len(each.latencies),
			each.at(0.5), each.at(0.9), each.at(0.99), each.at(1))
	}
	fmt.Printf("p99 with swaps: %.2f of that without\n", with.at(0.99)/without.at(0.99))
	change := float64(after)/float64(before) - 1
	fmt.Printf("resident set: %.1f MiB before, %.1f after: %+.1f %%\n", float64(before)/1024, float64(after)/1024, 100*change)
	if change > 0.05 {
		t.Errorf("the resident set grew by %.1f %%, want at most 5 %%", 100*change)
	}
}

// latencies are in milliseconds.
type latencies []float64

// at returns a quantile of sorted latencies.
func (l latencies) at(quantile float64) float64 { return l[int(quantile*float64(len(l)-1))] }

// openLoop sends requests at random times, whatever the server does, for a duration and until during returns. A latency
// counts from the intended start of its request. want has the responses of odd and of even versions.
func (g target) openLoop(photo []byte, rate float64, want [2][]byte, duration time.Duration, during func()) latencies {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if during != nil {
			during()
		}
	}()
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var all latencies
	var wg sync.WaitGroup
	began := time.Now()
	for due := began; ; due = due.Add(time.Duration(random.ExpFloat64() / rate * float64(time.Second))) {
		select {
		case <-done:
			if due.Sub(began) > duration {
				wg.Wait()
				return all
			}
		default:
		}
		time.Sleep(time.Until(due))
		wg.Go(func() {
			r, err := g.try(http.MethodPut, "/image", bytes.NewReader(photo))
			took := time.Since(due)
			version, _ := strconv.Atoi(r.header.Get("X-Model-Version"))
			switch {
			case err != nil || r.status != http.StatusOK:
				g.t.Errorf("got %d %s, %v, want 200", r.status, r.body, err)
			case !bytes.Equal(r.body, want[(version+1)%2]):
				g.t.Errorf("a response of version %d isn't that of its model", version)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took.Seconds()*1000)
		})
	}
}

// withSettings returns a model's file with a model.yaml inside.
func withSettings(t *testing.T, content []byte, settings string) []byte {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	out := zip.NewWriter(&file)
	top, _, _ := strings.Cut(archive.File[0].Name, "/")
	for _, record := range archive.File {
		err = errors.Join(err, out.Copy(record))
	}
	extra, failed := out.CreateHeader(&zip.FileHeader{Name: path.Join(top, "extra", "model.yaml"), Method: zip.Store})
	if failed == nil {
		_, failed = io.WriteString(extra, settings)
	}
	if err := errors.Join(err, failed, out.Close()); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}
