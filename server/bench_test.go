package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/api"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/model"
	"github.com/torchherd/torchherd/server/internal/repository"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// serveNegate serves a model that only negates, in this process, as `torchherd serve` would.
func serveNegate(t testing.TB) *httptest.Server {
	t.Helper()
	source, err := repository.Open(module("negate.pt"))
	if err != nil {
		t.Fatal(err)
	}
	served := model.NewServed(source, &model.Host{
		Slots: cpu.NewSlots(2), Cores: 2, Shares: cpu.NewShares(), MaxPixels: imagecodec.DefaultMaxPixels,
		Override: func(s *settings.Settings) { s.MaxWait = 0 }, Log: zerolog.Nop(),
	})
	if err := served.Load(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(served.Close)
	handler := api.New(api.Config{MaxUpload: 4 << 20, RequestTimeout: time.Minute}, model.Models{served}, zerolog.New(io.Discard))
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// A whole request, from the client's bytes to the client's answer, by HTTP over the loopback, with a model that only
// negates. The allocations are the server's and the client's together.
func BenchmarkRequest(b *testing.B) {
	server := serveNegate(b)
	for _, name := range []string{"jpeg-228.jpg", "jpeg-large.jpg"} {
		data := photograph(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request, err := http.NewRequestWithContext(b.Context(), http.MethodPut, server.URL+"/image", bytes.NewReader(data))
				if err != nil {
					b.Fatal(err)
				}
				response, err := server.Client().Do(request)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
					b.Fatal(response.Status, err)
				}
				_ = response.Body.Close()
			}
		})
	}
}
