package torch_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// usingOperator returns the path of a package that names an operator, as one whose model uses it does.
func usingOperator(t *testing.T, operator string) string {
	t.Helper()
	return goldens.Package(t, func(records map[string][]byte) {
		for record := range records {
			if base, found := strings.CutSuffix(record, ".so"); found {
				records[base+".json"] = []byte(`{"nodes": [{"name": "buf0", "node": {"target": "` + operator + `", "inputs": [
					{"name": "x", "arg": {"as_tensor": {"name": "arg0_1"}}, "kind": 1}], "outputs": [{"as_tensor": {"name": "buf0"}}], "metadata": {}}}]}`)
			}
		}
	})
}

// Modules and packages can use the operators of a library that was loaded.
func TestLoadOperators(t *testing.T) {
	for range 2 { // the second call does nothing
		if err := torch.LoadOperators(goldens.Operators(t)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := torch.Load(goldens.Script(t, goldens.HalvesBody), torch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	batch := images(2, 3, 4)
	got, err := forward(m, batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, item := range got.Items {
		for at, value := range item {
			if want := batch.Items[i][at] / 2; value != want {
				t.Fatalf("image %d, byte %d: got %d, want %d", i, at, value, want)
			}
		}
	}
	loadPackage(t, usingOperator(t, "torchherd_test::halve"), torch.Options{})
}

func TestLoadOperatorsErrors(t *testing.T) {
	folder := t.TempDir()
	whole, err := os.ReadFile(goldens.Operators(t))
	if err != nil {
		t.Fatal(err)
	}
	truncated := filepath.Join(folder, "truncated.so")
	if err := os.WriteFile(truncated, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		kind torch.Kind
		text string
	}{
		{filepath.Join(folder, "absent.so"), torch.ErrNotFound, "no such file"},
		{folder, torch.ErrLibrary, "is a directory"},
		{goldens.Path("modules/garbage.pt"), torch.ErrLibrary, "not a shared library"},
		{truncated, torch.ErrLibrary, "not a shared library"},
		{goldens.Unresolved(t), torch.ErrLibrary, "built for another PyTorch version; use its build for PyTorch " + torch.Version()},
	} {
		err := torch.LoadOperators(test.path)
		expectKind(t, err, test.kind)
		if err != nil && (!strings.Contains(err.Error(), test.path) || !strings.Contains(err.Error(), test.text) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("error %q doesn't have %q and %q in one line", err, test.path, test.text)
		}
	}
}

// The reason for a model whose operators are missing names the flag that helps.
func TestUnknownOperators(t *testing.T) {
	loadPackage(t, goldens.Path("modules/negate.pt2"), torch.Options{})
	for operator, want := range map[string]string{
		"torchvision::no_such_operator": "load the library that registers it by --operators",
		"aten::no_such_operator":        "most likely another PyTorch version exported it",
	} {
		body := "    return ops." + strings.Replace(operator, "::", ".", 1) + "(x)\n"
		if strings.HasPrefix(operator, "aten") {
			body = "    return torch.no_such_operator(x)\n"
		}
		for _, path := range []string{goldens.Script(t, body), usingOperator(t, operator)} {
			_, err := torch.Load(path, torch.Options{})
			expectKind(t, err, torch.ErrNotAModule)
			for _, part := range []string{path, "the model uses the operator " + operator + ", which", want} {
				if err != nil && (!strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n")) {
					t.Errorf("error %q doesn't contain %q, or has several lines", err, part)
				}
			}
		}
	}
}
