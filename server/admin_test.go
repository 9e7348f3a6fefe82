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
)

// administration is the address of a command's administration, as a command with another url.
func (c *command) administration() *command {
	return &command{t: c.t, url: "http://" + c.await("the administration is listening")["address"].(string)}
}

func (c *command) post(path, body string) answer {
	c.t.Helper()
	return c.do(http.MethodPost, path, strings.NewReader(body))
}

// The repository calls of the Open Inference Protocol, as Triton's clients make them.
func TestRepository(t *testing.T) {
	file := newModelFile(t)
	c := start(t, file.path)
	admin := c.administration()
	photo := photograph(t, "jpeg-420.jpg")
	before := expectVersion(t, c.put(photo), 1)

	expectJSON(t, admin.post("/v2/repository/index", ""), 200, `[{"name":"model","version":"1","state":"READY","reason":""}]`)
	file.put(goldens.Read(t, "modules/identity.pt"))
	expectJSON(t, admin.post("/v2/repository/models/model/load", ""), 200, `{}`)
	if after := expectVersion(t, c.put(photo), 2); bytes.Equal(before, after) {
		t.Error("the old answer")
	}
	c.await("the version is gone")
	expectJSON(t, admin.post("/v2/repository/index", `{"ready":true}`), 200, `[{"name":"model","version":"2","state":"READY","reason":""}]`)

	file.put(goldens.Read(t, "modules/two_channels.pt"))
	a := admin.post("/v2/repository/models/model/load", `{}`)
	if a.status != 400 || !strings.Contains(string(a.body), "1 or 3") {
		t.Errorf("a bad file: %d %s", a.status, a.body)
	}
	expectVersion(t, c.put(photo), 2)
	a = admin.post("/v2/repository/index", "")
	if want := `{"name":"model","version":"3","state":"UNAVAILABLE","reason":"`; !strings.Contains(string(a.body), want) {
		t.Errorf("%s, without %s", a.body, want)
	}

	expectJSON(t, admin.post("/v2/repository/models/model/unload", `{"parameters":{"unload_dependents":false}}`), 200, `{}`)
	expectError(t, c.put(photo), 503, "the model isn't ready: try again soon")
	if a := c.do(http.MethodGet, "/readyz", nil); a.status != 503 {
		t.Errorf("/readyz: %d", a.status)
	}
	expectJSON(t, admin.post("/v2/repository/models/model/unload", ""), 400, `{"error":"model: no version is ready of model"}`)
	file.put(goldens.Read(t, "modules/negate.pt"))
	expectJSON(t, admin.post("/v2/repository/models/model/load", ""), 200, `{}`)
	if after := expectVersion(t, c.put(photo), 4); !bytes.Equal(before, after) {
		t.Error("another answer than before")
	}
}

func TestRepositoryRefuses(t *testing.T) {
	c := start(t, module("negate.pt"))
	admin := c.administration()
	expectJSON(t, admin.post("/v2/repository/models/other/load", ""), 404, `{"error":"no model is called \"other\"; there is \"negate\""}`)
	for _, test := range []struct {
		path, body string
		status     int
		text       string
	}{
		{"/v2/repository/models/negate/load", "{", 400, "the body isn't the JSON"},
		{"/v2/repository/models/negate/load", `{"parameters":{"config":"{}"}}`, 400, `no parameter \"config\"`},
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
			if a := c.do(method, path, nil); a.status != 404 {
				t.Errorf("%s %s on the main address: %d", method, path, a.status)
			}
		}
	}
	expectVersion(t, c.put(photograph(t, "jpeg-420.jpg")), 1)
}

func TestModelsCommand(t *testing.T) {
	file := newModelFile(t)
	c := start(t, file.path)
	address := strings.TrimPrefix(c.administration().url, "http://")
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
	c.await("the version is gone")
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
	if status, out := run("unload", "other"); status != 1 || !strings.Contains(out, `no model is called "other"; there is "model"`) {
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
