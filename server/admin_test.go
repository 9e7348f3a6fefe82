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

// The repository calls of the Open Inference Protocol, as Triton's clients make them.
func TestRepository(t *testing.T) {
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
		t.Error("the old answer")
	}
	s.awaitState("model", 1, lifecycle.Unloaded)
	expectJSON(t, admin.post("/v2/repository/index", `{"ready":true}`), 200, `[{"name":"model","version":"2","state":"READY","reason":""}]`)

	file.put(goldens.Read(t, "modules/two_channels.pt"))
	a := admin.post("/v2/repository/models/model/load", `{}`)
	if a.status != 400 || !strings.Contains(string(a.body), "1 or 3") {
		t.Errorf("a bad file: %d %s", a.status, a.body)
	}
	expectVersion(t, s.put(photo), 2)
	a = admin.post("/v2/repository/index", "")
	if want := `{"name":"model","version":"3","state":"UNAVAILABLE","reason":"`; !strings.Contains(string(a.body), want) {
		t.Errorf("%s, without %s", a.body, want)
	}

	expectJSON(t, admin.post("/v2/repository/models/model/unload", `{"parameters":{"unload_dependents":false}}`), 200, `{}`)
	expectError(t, s.put(photo), 503, "the model isn't ready: try again soon")
	if a := s.do(http.MethodGet, "/readyz", nil); a.status != 503 {
		t.Errorf("/readyz: %d", a.status)
	}
	expectJSON(t, admin.post("/v2/repository/models/model/unload", ""), 400, `{"error":"unload model: no version is ready"}`)
	file.put(goldens.Read(t, "modules/negate.pt"))
	expectJSON(t, admin.post("/v2/repository/models/model/load", ""), 200, `{}`)
	if after := expectVersion(t, s.put(photo), 4); !bytes.Equal(before, after) {
		t.Error("another answer than before")
	}
}

func TestRepositoryRefuses(t *testing.T) {
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
		a := admin.post(test.path, test.body)
		if a.status != test.status || !strings.Contains(string(a.body), test.text) || !json.Valid(a.body) {
			t.Errorf("%s: %d %s", test.path, a.status, a.body)
		}
	}
	// Nothing that changes what is served answers on the main address.
	for _, path := range []string{"/models", "/v2/repository/index", "/v2/repository/models/negate/load", "/v2/repository/models/negate/unload"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if a := s.do(method, path, nil); a.status != 404 {
				t.Errorf("%s %s on the main address: %d", method, path, a.status)
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
	for range 2 { // of which the second finds nothing new
		if status, out := run("load", "model"); status != 0 || out != "" {
			t.Fatalf("load: %d %s", status, out)
		}
	}
	s.awaitState("model", 1, lifecycle.Unloaded)
	if err := os.Remove(file.path); err != nil {
		t.Fatal(err)
	}
	if status, out := run("load", "model"); status != 1 || !strings.Contains(out, "no such file") {
		t.Fatalf("load of nothing: %d %s", status, out)
	}
	status, out := run("list")
	want := `^MODEL +VERSION +STATE +SINCE +REASON *
model +1 +gone +[-0-9]+ [:0-9]+ *
model +2 +ready +[-0-9]+ [:0-9]+ *
model +3 +failed +[-0-9]+ [:0-9]+ +.*no such file.*
$`
	if status != 0 || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("list: %d\n%s", status, out)
	}
	if status, out := run("unload", "model"); status != 0 || out != "" {
		t.Errorf("unload: %d %s", status, out)
	}
	if status, out := run("unload", "other"); status != 1 || !strings.Contains(out, `model "other" not found; available: "model"`) {
		t.Errorf("unload of another: %d %s", status, out)
	}
	if status, out := run("list", "--timeout", "1ns"); status != 1 || !strings.Contains(out, "is "+address+" its --admin-listen?") {
		t.Errorf("no answer: %d %s", status, out)
	}
}

func expectJSON(t *testing.T, a answer, status int, body string) {
	t.Helper()
	if a.status != status || strings.TrimSpace(string(a.body)) != body {
		t.Errorf("%d %s, not %d %s", a.status, a.body, status, body)
	}
}
