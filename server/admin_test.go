package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cli"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

// The requests are those of Triton's clients, which follow the Open Inference Protocol's model repository extension.
func TestRepositoryAPI(t *testing.T) {
	t.Parallel()
	file := newModelFile(t)
	s := start(t, file.path)
	admin := s.admin
	photo := photograph(t, "jpeg-420.jpg")
	before := expectVersion(t, s.put(photo), 1)

	expectJSON(t, admin.post("/v2/repository/index", ""), 200, `[{"name":"model","version":"1","state":"READY","reason":""}]`)
	file.put(goldens.Read(t, "modules/identity.pt"))
	expectJSON(t, admin.post("/v2/repository/models/model/load", ""), 200, `{}`)
	if after := expectVersion(t, s.put(photo), 2); bytes.Equal(before, after) {
		t.Error("version 2 responds like version 1")
	}
	s.awaitState("model", 1, lifecycle.Unloaded)
	expectJSON(t, admin.post("/v2/repository/index", `{"ready":true}`), 200, `[{"name":"model","version":"2","state":"READY","reason":""}]`)

	file.put(goldens.Read(t, "modules/two_channels.pt"))
	r := admin.post("/v2/repository/models/model/load", `{}`)
	if r.status != 400 || !strings.Contains(string(r.body), "1, 3 or 4") {
		t.Errorf("load of a bad file: got %d %s, want 400 and \"1, 3 or 4\"", r.status, r.body)
	}
	expectVersion(t, s.put(photo), 2)
	r = admin.post("/v2/repository/index", "")
	if want := `{"name":"model","version":"3","state":"UNAVAILABLE","reason":"`; !strings.Contains(string(r.body), want) {
		t.Errorf("got %s, want %s in it", r.body, want)
	}

	expectJSON(t, admin.post("/v2/repository/models/model/unload", `{"parameters":{"unload_dependents":false}}`), 200, `{}`)
	expectError(t, s.put(photo), 503, "the model isn't ready: try again soon")
	if r := s.do(http.MethodGet, "/readyz", nil); r.status != 503 {
		t.Errorf("/readyz: status = %d, want 503", r.status)
	}
	expectJSON(t, admin.post("/v2/repository/models/model/unload", ""), 400, `{"error":"unload model: no version is ready"}`)
	file.put(goldens.Read(t, "modules/negate.pt"))
	expectJSON(t, admin.post("/v2/repository/models/model/load", ""), 200, `{}`)
	if after := expectVersion(t, s.put(photo), 4); !bytes.Equal(before, after) {
		t.Error("version 4 doesn't respond like version 1, which has the same file")
	}
}

func TestRepositoryAPIRefusesBadRequests(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	admin := s.admin
	expectJSON(t, admin.post("/v2/repository/models/other/load", ""), 404, `{"error":"model \"other\" not found; available: \"negate\""}`)
	for _, test := range []struct {
		path, body string
		status     int
		text       string
	}{
		{"/v2/repository/models/negate/load", "{", 400, "invalid JSON"},
		{"/v2/repository/models/negate/load", `{"parameters":{"config":"{}"}}`, 400, `unknown parameter \"config\"`},
		{"/v2/repository/models/negate/load", strings.Repeat(" ", 2<<20), 413, ""},
		{"/elsewhere", "", 404, ""},
	} {
		r := admin.post(test.path, test.body)
		if r.status != test.status || !strings.Contains(string(r.body), test.text) || !json.Valid(r.body) {
			t.Errorf("%s: got %d %s, want %d and JSON with %q", test.path, r.status, r.body, test.status, test.text)
		}
	}
	// The main address has none of these paths, because they change what is served.
	for _, path := range []string{"/models", "/v2/repository/index", "/v2/repository/models/negate/load", "/v2/repository/models/negate/unload"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if r := s.do(method, path, nil); r.status != 404 {
				t.Errorf("%s %s on the main address: status = %d, want 404", method, path, r.status)
			}
		}
	}
	expectVersion(t, s.put(photograph(t, "jpeg-420.jpg")), 1)
}

func TestModelsCommand(t *testing.T) {
	t.Parallel()
	file := newModelFile(t)
	s := start(t, file.path)
	address := s.admin.address()
	run := func(arguments ...string) (int, string) {
		var out bytes.Buffer
		status := cli.Run("test", append(append([]string{"models"}, arguments...), "--admin-listen", address), &out, &out)
		return status, out.String()
	}
	file.put(goldens.Read(t, "modules/identity.pt"))
	for range 2 { // the second load finds nothing new
		if status, out := run("load", "model"); status != 0 || out != "" {
			t.Fatalf("load: got status %d, output %q, want 0 and none", status, out)
		}
	}
	s.awaitState("model", 1, lifecycle.Unloaded)
	if err := os.Remove(file.path); err != nil {
		t.Fatal(err)
	}
	if status, out := run("load", "model"); status != 1 || !strings.Contains(out, "no such file") {
		t.Fatalf("load of a file that was removed: got status %d, output %q, want 1 and \"no such file\"", status, out)
	}
	status, out := run("list")
	want := `^MODEL +VERSION +STATE +SINCE +REMARKS *
model +1 +gone +[-0-9]+ [:0-9]+ *
model +2 +ready +[-0-9]+ [:0-9]+ *
model +3 +failed +[-0-9]+ [:0-9]+ +.*no such file.*
$`
	if status != 0 || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("list: got status %d, output\n%s\nwant 0 and\n%s", status, out, want)
	}
	if status, out := run("unload", "model"); status != 0 || out != "" {
		t.Errorf("unload: got status %d, output %q, want 0 and none", status, out)
	}
	if status, out := run("unload", "other"); status != 1 || !strings.Contains(out, `model "other" not found; available: "model"`) {
		t.Errorf("unload of an unknown model: got status %d, output %q, want 1 and \"not found\"", status, out)
	}
	if status, out := run("list", "--timeout", "1ns"); status != 1 || !strings.Contains(out, "is "+address+" the server's --admin-listen?") {
		t.Errorf("list without a response: got status %d, output %q, want 1 and a question about --admin-listen", status, out)
	}
}

func expectJSON(t *testing.T, r response, status int, body string) {
	t.Helper()
	if r.status != status || strings.TrimSpace(string(r.body)) != body {
		t.Errorf("got %d %s, want %d %s", r.status, r.body, status, body)
	}
}
