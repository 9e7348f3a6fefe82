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

// serveNegate serves a model that only negates, in this process, without a log and without waiting for company.
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

// A whole request, from the client's bytes to the client's answer, by HTTP over the loopback, with a model that only
// negates. The allocations are the server's and the client's together.
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
