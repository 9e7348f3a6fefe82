package main

import (
	"bytes"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/lifecycle"
)

// lastLine returns the last line of the log of a process that has exited.
func (p *process) lastLine() map[string]any {
	p.t.Helper()
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return p.log.lines[len(p.log.lines)-1]
}

// A forward that never ends: its batch and all that waits for the model is answered, the server stops being ready, other
// models finish what they have, and the process exits with status 3.
func TestHangingForwardEndsTheServer(t *testing.T) {
	t.Parallel()
	hangs := goldens.ScriptAt(t, filepath.Join(t.TempDir(), "hangs.pt"), goldens.HangsOnWhite)
	p := startProcess(t, "--forward-timeout", "2s", "--max-batch-size", "1", module("negate.pt"), hangs)
	photo := photograph(t, "jpeg-420.jpg")
	expectImage(t, p.putTo("/image/hangs", photo))
	p.log.await(t, "path", "/image/hangs", "status", 200.0)
	forward := []any{"model", "hangs", "height", 228.0}
	forwards := p.log.count(forward...)
	unfinished := p.upload(photo) // for the other model

	responses := make(chan response)
	send := func(image []byte) {
		r, err := p.try(http.MethodPut, "/image/hangs", bytes.NewReader(image))
		if err != nil {
			t.Error(err)
		}
		responses <- r
	}
	go send(solid(t, white))
	p.log.awaitCount(t, forwards+1, forward...)
	go send(photo)
	for range 2 {
		r := <-responses
		expectError(t, r, 503, "the model doesn't respond")
		if !r.close || r.header.Get("Retry-After") == "" {
			t.Errorf("the header of the response is %v, want Connection: close and Retry-After", r.header)
		}
	}
	if r := p.do(http.MethodGet, "/readyz", nil); r.status != 503 {
		t.Errorf("/readyz: status = %d, want 503", r.status)
	}
	expectImage(t, unfinished.finish(t, photo))
	if state := p.wait(); state.ExitCode() != 3 {
		t.Errorf("got %v, want exit status 3", state)
	}
	if line := p.lastLine(); !hasFields(line, []any{"level", "error", "model", "hangs", "version", "1", "batch", 1.0, "forward_ms", nil, "status", 3.0}) {
		t.Errorf("the last line is %v", line)
	}
}

// Before the limit of the forward has passed, the server stops being ready, and a signal ends the process in time.
func TestSignalEndsAServerThatHangs(t *testing.T) {
	t.Parallel()
	hangs := goldens.ScriptAt(t, filepath.Join(t.TempDir(), "hangs.pt"), goldens.HangsOnWhite)
	p := startProcess(t, "--forward-timeout", "9s", "--request-timeout", "1s", "--drain-timeout", "2s", hangs)
	expectError(t, p.put(solid(t, white)), 504, "deadline")
	if !poll(func() bool { return p.do(http.MethodGet, "/readyz", nil).status == 503 }) {
		t.Fatal("/readyz still returns 200, want 503")
	}
	p.signal(terminate)
	if state := p.wait(); state.ExitCode() != 1 {
		t.Errorf("got %v, want exit status 1", state)
	}
	if text, _ := p.lastLine()["error"].(string); !strings.Contains(text, "not closed in time: version 1 of hangs") {
		t.Errorf("the last line is %v", p.lastLine())
	}
}

// A load that never ends delays neither a newer version, nor another model, nor the end of the process.
func TestEndlessLoad(t *testing.T) {
	t.Parallel()
	folder := newModelFolder(t, map[string]string{"1/model.pt": "negate.pt"})
	p := startProcess(t, "--watch", "--settle", "50ms", folder, module("identity.pt"))
	goldens.ScriptAt(t, filepath.Join(folder, "2", "model.pt"), goldens.Hangs)
	p.awaitState("net", 2, lifecycle.Warming)
	if r := p.admin.post("/v2/repository/models/identity/load", ""); r.status != 200 {
		t.Errorf("load of another model: %d %s", r.status, r.body)
	}
	putModel(t, filepath.Join(folder, "3", "model.pt"), "identity.pt")
	p.awaitState("net", 3, lifecycle.Ready)
	p.awaitState("net", 2, lifecycle.Unloaded)
	goldens.ScriptAt(t, filepath.Join(folder, "4", "model.pt"), goldens.Hangs)
	p.awaitState("net", 4, lifecycle.Warming)
	p.expectOrderlyEnd()
}

// With --require any, what can be served is served: a model that is missing, isn't a model, or doesn't finish its load
// answers 503, and the server is ready.
func TestRequireAny(t *testing.T) {
	t.Parallel()
	hangs := goldens.ScriptAt(t, filepath.Join(t.TempDir(), "endless.pt"), goldens.Hangs)
	p := startProcess(t, "--trial", "--require", "any", "--load-timeout", "3s", "--watch", hangs, module("negate.pt"), module("garbage.pt"), module("missing.pt"), module("two_channels.pt"))
	if r := p.do(http.MethodGet, "/readyz", nil); r.status != 200 {
		t.Errorf("/readyz: got %d %s, want 200", r.status, r.body)
	}
	photo := photograph(t, "jpeg-small.jpg")
	expectImage(t, p.putTo("/image/negate", photo))
	expectError(t, p.put(photo), 503, "isn't ready")
	for name, reason := range map[string]string{
		"endless": "--load-timeout", "garbage": "not a module", "missing": "no such file", "two_channels": "1, 3 or 4",
	} {
		expectError(t, p.putTo("/image/"+name, photo), 503, "isn't ready")
		if statuses := p.statuses(name); len(statuses) != 1 || statuses[0].State != lifecycle.Failed || !strings.Contains(statuses[0].Reason, reason) {
			t.Errorf("%s: %+v, want the state failed with the reason %q", name, statuses, reason)
		}
	}
	p.expectOrderlyEnd()
}

// If no model can be served, the server exits.
func TestRequireAnyNeedsOne(t *testing.T) {
	t.Parallel()
	expectFailure(t, "not a module", "--require", "any", module("garbage.pt"), module("missing.pt"))
	expectFailure(t, "1, 3 or 4", "--require", "any", module("garbage.pt"), module("two_channels.pt")) // after its load
}
