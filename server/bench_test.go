package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/rs/zerolog"
)

// serveNegate serves negate.pt in this process, without a log and without a batching delay.
func serveNegate(t testing.TB) target {
	t.Helper()
	a := startApp(t, zerolog.Nop(), []string{"--listen", "127.0.0.1:0", "--admin-listen", "off", "--max-wait", "0s", module("negate.pt")})
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
