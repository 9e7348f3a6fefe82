package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/server/internal/cli"
)

// A page that an operator looks at can make the operator's browser send requests to the admin API.
func TestPagesCannotUseTheAdminAPI(t *testing.T) {
	t.Parallel()
	s := start(t, "--admin-hosts", "Herd.example,other.example", module("negate.pt"))
	_, port, _ := strings.Cut(s.admin.address(), ":")
	const unload = "/v2/repository/models/negate/unload"
	for _, test := range []struct {
		method, path, host, origin, site string
		status                           int
	}{
		{"POST", unload, "", "http://attacker.example", "cross-site", 403},
		{"POST", unload, "", "http://attacker.example", "", 403}, // an old browser
		{"POST", unload, "", "null", "", 403},
		{"POST", unload, "", "", "same-site", 403},
		{"GET", "/models", "rebound.example:" + port, "", "same-origin", 403}, // DNS rebinding
		{"GET", "/models", "localhost.attacker.example", "", "", 403},
		{"GET", "/metrics", "rebound.example", "", "", 403},
		{"GET", "/models", "localhost:" + port, "", "", 200},
		{"GET", "/models", "LOCALHOST.", "", "", 200},
		{"GET", "/models", "a.localhost", "", "", 200},
		{"GET", "/models", "[::1]:" + port, "", "", 200},
		{"GET", "/models", "192.0.2.7:8002", "", "", 200}, // Prometheus names its targets so
		{"GET", "/models", "herd.example", "", "", 200},
		{"GET", "/models", "other.example:80", "", "", 200},
		{"POST", "/v2/repository/index", "", "http://" + s.admin.address(), "same-origin", 200},
		{"POST", "/v2/repository/models/negate/load", "", "", "", 200}, // as models load sends it
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, s.admin.url+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = test.host
		for name, value := range map[string]string{"Origin": test.origin, "Sec-Fetch-Site": test.site} {
			if value != "" {
				request.Header.Set(name, value)
			}
		}
		r, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != test.status {
			t.Errorf("%+v: status = %d", test, r.StatusCode)
		}
	}
	expectVersion(t, s.put(photograph(t, "jpeg-small.jpg")), 1)
	// A client without a Host isn't a browser.
	if text, err := s.admin.exchange("GET /models HTTP/1.0\r\n\r\n"); err != nil || !strings.HasPrefix(text, "HTTP/1.0 200 ") {
		t.Errorf("without a Host: got %.40q, %v, want 200", text, err)
	}
}

func TestTheAdminKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const key = "0123456789abcdef"
	file := write("key", key+"\n")
	s := start(t, "--admin-key-file", file, module("negate.pt"))
	for _, path := range []string{"/models", "/metrics", "/nothing"} {
		for _, wrong := range []string{"", "Bearer", "Bearer ", "Bearer 0123456789abcdeF", "Basic " + key, key} {
			r := s.admin.do(http.MethodGet, path, nil, "Authorization", wrong)
			if r.status != 401 || r.header.Get("WWW-Authenticate") != "Bearer" || strings.Contains(string(r.body), key) {
				t.Errorf("%s, %q: got %d %s, want 401", path, wrong, r.status, r.body)
			}
		}
	}
	if r := s.admin.do(http.MethodGet, "/models", nil, "Authorization", "bearer "+key); r.status != 200 {
		t.Errorf("with the key: status = %d, want 200", r.status)
	}
	run := func(status int, text string, arguments ...string) {
		t.Helper()
		var out bytes.Buffer
		if got := cli.Run("test", arguments, &out, &out); got != status || !strings.Contains(out.String(), text) {
			t.Errorf("%v: got status %d, output %q, want %d and %q", arguments, got, out.String(), status, text)
		}
	}
	list := []string{"models", "list", "--admin-listen", s.admin.address()}
	run(0, "negate", append(list, "--admin-key-file", file)...)
	run(1, "--admin-key-file", list...)
	run(1, "--admin-key-file", append(list, "--admin-key-file", write("other", strings.Repeat("x", 16)))...)
	run(1, "16 characters", append(list, "--admin-key-file", write("empty", "\n"))...)
	run(1, "no such file", append(list, "--admin-key-file", filepath.Join(dir, "none"))...)
	run(1, "16 characters", "serve", "--admin-key-file", write("short", "secret"), module("negate.pt"))
}
