package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/rs/zerolog"

	"github.com/torchherd/torchherd/server/internal/app"
	"github.com/torchherd/torchherd/server/internal/cli"
)

// serveNegate serves negate.pt in this process, without a log and without a batching delay.
func serveNegate(t testing.TB) target {
	t.Helper()
	options, err := cli.ServeOptions("test", []string{"--listen", "127.0.0.1:0", "--admin-listen", "off", "--max-wait", "0s", module("negate.pt")}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.New(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Stop(context.Background()) })
	return target{t, "http://" + a.Addr()}
}

// BenchmarkRequest measures whole requests over HTTP on the loopback, with a model that only negates. The allocations are
// those of the server and the client together.
func BenchmarkRequest(b *testing.B) {
	server := serveNegate(b)
	for _, name := range []string{"jpeg-228.jpg", "jpeg-large.jpg"} {
		data := photograph(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request, err := http.NewRequestWithContext(b.Context(), http.MethodPut, server.url+"/image", bytes.NewReader(data))
				if err != nil {
					b.Fatal(err)
				}
				response, err := client.Do(request)
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
