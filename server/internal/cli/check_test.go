package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
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
	status, out, err = run("models", "check", module("no_batch_two.pt"))
	if status != 0 || !strings.Contains(out, "warning  served in batches of one: it runs 1 image, but fails with 2") {
		t.Errorf("got status %d, stderr %q, stdout\n%s\nwant status 0 and a warning", status, err, out)
	}
	// The model fails only at the size that the warm-up chose, so serve would serve it.
	status, out, err = run("models", "check", "--size", "keep", module("needs_four.pt"))
	if status != 0 || !strings.Contains(out, "images of another size may work") || strings.Contains(out, "batch ") {
		t.Errorf("got status %d, stderr %q, stdout\n%s\nwant status 0, the failed warm-up and no times", status, err, out)
	}
	for name, reason := range map[string]string{
		"nan.pt": "NaN or infinite", "two_channels.pt": "1, 3 or 4", "garbage.pt": "garbage.pt",
		"no-such.pt": "no such file",
	} {
		if status, out, err := run("models", "check", module(name)); status != 1 || out != "" || !strings.Contains(err, reason) {
			t.Errorf("%s: got status %d, stdout %q, stderr %q, want status 1 and %q", name, status, out, err, reason)
		}
	}
}

// Libraries of operators are loaded before the model is looked for.
func TestModelsCheckOperators(t *testing.T) {
	path := goldens.Script(t, goldens.HalvesBody)
	status, out, err := run("models", "check", "--operators", goldens.Operators(t), path)
	if status != 0 || !strings.HasPrefix(out, "model ") {
		t.Errorf("got status %d, stdout %q, stderr %q, want status 0 and a description", status, out, err)
	}
	for _, command := range [][]string{{"models", "check"}, {"serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"}} {
		for library, reason := range map[string]string{
			"no-such-library.so": "no such file", module("garbage.pt"): "not a shared library", goldens.Unresolved(t): "built for another PyTorch version",
		} {
			status, out, err := run(append(command, "--operators", goldens.Operators(t), "--operators", library, "no-such-model.pt")...)
			if status != 1 || out != "" || strings.Count(err, "\n") != 1 || !strings.Contains(err, "--operators: ") || !strings.Contains(err, reason) {
				t.Errorf("%v with %s: got status %d, stdout %q, stderr %q, want status 1 and one line with %q", command, library, status, out, err, reason)
			}
		}
	}
}

// The servers of tune load the same libraries.
func TestTuneOperators(t *testing.T) {
	var c commands
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"tune", "--operators", "/a.so", "--operators", `/b\,c.so`, "model.pt"}); err != nil {
		t.Fatal(err)
	}
	config := c.Tune.config()
	serve, err := parse(t, append(config.ExtraArguments, "model.pt")...)
	if want := []string{"/a.so", "/b,c.so"}; err != nil || !slices.Equal(serve.Operators, want) {
		t.Errorf("got %q, %v, want %q", serve.Operators, err, want)
	}
}

// A model that fails as it is: the reason comes first, in one line, and then settings with which it works. --write writes
// them, and then it works.
func TestModelsCheckHints(t *testing.T) {
	for _, test := range []struct{ name, body, settings, reason, hint string }{
		{"batch", "    return torch.mul(torch.view(x, [1, 3, torch.size(x, 2), torch.size(x, 3)]), 1.)\n", "# a comment\nbatching: require\n", "is invalid for input of size", "max-batch-size: 1"},
		{"size", "    return torch.add(x, torch.zeros([1, 1, 64, 64]))\n", "", "must match the size of tensor", "size: 64x64"},
		{"both", "    return torch.mul(torch.view(x, [1, 3, 64, 64]), 1.)\n", "", "is invalid for input of size", "size: 64x64 and max-batch-size: 1"},
		{"precision", "    y = torch.conv2d(x, torch.mul(torch.ones([3, 3, 1, 1], dtype=5), 0.25))\n    return torch.conv2d(y, torch.mul(torch.ones([3, 3, 1, 1], dtype=6), 0.25))\n", "", "expected scalar type Float but found Half", "precision: bf16"},
		{"multiple", "    small = torch.avg_pool2d(x, [16, 16])\n    return torch.add(x, torch.repeat_interleave(torch.repeat_interleave(small, 16, 2), 16, 3))\n", "size: keep\nwarm-up: [100x100]\n", "must match the size of tensor", "multiple-of: 16"},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "net")
			if err := os.MkdirAll(filepath.Join(folder, "1"), 0o700); err != nil {
				t.Fatal(err)
			}
			goldens.ScriptAt(t, filepath.Join(folder, "1", "model.pt"), test.body)
			path := filepath.Join(folder, "model.yaml")
			if err := os.WriteFile(path, []byte(test.settings), 0o600); err != nil {
				t.Fatal(err)
			}
			status, out, err := run("models", "check", folder)
			if status != 1 || out != "" || strings.Count(err, "\n") != 1 || !strings.Contains(err, test.reason) || !strings.HasSuffix(err, "; it works with "+test.hint+" in model.yaml\n") {
				t.Fatalf("got status %d, stdout %q, stderr %q, want status 1 and one line with %q and %q", status, out, err, test.reason, test.hint)
			}
			if _, out, _ := run("models", "check", folder, "--write"); !strings.Contains(out, "Written to "+path+": "+test.hint) {
				t.Fatalf("--write: got %q", out)
			}
			text, _ := os.ReadFile(path)
			if !strings.HasPrefix(string(text), test.settings) {
				t.Errorf("model.yaml lost %q: %s", test.settings, text)
			}
			if status, _, err := run("models", "check", folder); status != 0 {
				t.Errorf("with the written model.yaml: got status %d, %q", status, err)
			}
		})
	}
	// A package names the sides of the images that it takes, one by one.
	unstated := goldens.Package(t, func(records map[string][]byte) { delete(records, goldens.RecordOfPackage) })
	if _, _, err := run("models", "check", unstated); !strings.Contains(err, "compiled for ") && !strings.HasSuffix(err, "the package takes images with a height of 24, and this one has 228; it works with size: 32x24 in model.yaml\n") {
		t.Errorf("a package that states no size: got %q", err)
	}
	folder := filepath.Join(t.TempDir(), "net")
	if err := os.MkdirAll(filepath.Join(folder, "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	goldens.ScriptAt(t, filepath.Join(folder, "1", "model.pt"), "    return torch.mul(x, 1.)\n")
	if err := os.WriteFile(filepath.Join(folder, "model.yml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, err := run("models", "check", folder); status != 0 || !strings.HasPrefix(out, "warning: model.yml is ignored; rename it to model.yaml\n") {
		t.Errorf("model.yml: got status %d, stdout %q, stderr %q", status, out, err)
	}
	file := goldens.Script(t, "    return torch.add(x, torch.zeros([1, 1, 64, 64]))\n")
	if _, _, err := run("models", "check", file, "--write"); !strings.Contains(err, "put beside 1 a model.yaml with: size: 64x64") {
		t.Errorf("--write for a single file: got %q", err)
	}
}
