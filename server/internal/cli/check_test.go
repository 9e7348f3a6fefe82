package cli

import (
	"regexp"
	"strings"
	"testing"
)

func TestModelsCheck(t *testing.T) {
	status, out, err := run("models", "check", module("upscale2.pt"), "--size", "32x24")
	want := `^model +upscale2, version 1, from .*/upscale2\.pt
weights +0 parameters, 0 B
on +cpu, 1 instance\(s\) of 1 thread\(s\), fp32
input +rgb, images of size 32x24
warm-up +[0-9.]+m?s

batch +input +output +ms +images/s
1 +32x24 +64x48, 3 channel\(s\) +[0-9.]+ +[0-9.]+
2 +32x24 +64x48, 3 channel\(s\) +[0-9.]+ +[0-9.]+
$`
	if status != 0 || err != "" || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("got status %d, stderr %q, stdout\n%s\nwant status 0 and\n%s", status, err, out, want)
	}
	status, out, err = run("models", "check", "--size", "keep", "--max-batch-size", "5", module("negate.pt"))
	if status != 0 || !strings.Contains(out, "images of their own size") || !strings.Contains(out, "\n5      256x256") {
		t.Errorf("got status %d, stderr %q, stdout\n%s\nwant status 0, images of their own size and a batch of 5", status, err, out)
	}
	// The model fails only at the size that the warm-up chose, so serve would serve it.
	status, out, err = run("models", "check", "--size", "keep", module("needs_four.pt"))
	if status != 0 || !strings.Contains(out, "images of another size may work") || strings.Contains(out, "batch ") {
		t.Errorf("got status %d, stderr %q, stdout\n%s\nwant status 0, the failed warm-up and no times", status, err, out)
	}
	for name, reason := range map[string]string{
		"nan.pt": "NaN or infinite", "two_channels.pt": "1, 3 or 4", "garbage.pt": "garbage.pt", "no_batch_two.pt": "refuses a batch of two",
		"no-such.pt": "no such file",
	} {
		if status, out, err := run("models", "check", module(name)); status != 1 || out != "" || !strings.Contains(err, reason) {
			t.Errorf("%s: got status %d, stdout %q, stderr %q, want status 1 and %q", name, status, out, err, reason)
		}
	}
}
