package goldens

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// HalvesBody is a body for Script that uses the operator of Operators.
const HalvesBody = "    return ops.torchherd_test.halve(x)\n"

// Operators returns the path of a library with the operator torchherd_test::halve, which csrc/test has.
func Operators(t testing.TB) string { return testLibrary(t, "operators.so") }

// Unresolved returns the path of a library of operators that needs a function which this LibTorch lacks.
func Unresolved(t testing.TB) string { return testLibrary(t, "unresolved.so") }

// HEICDecoder returns the path of the program that decodes HEIC.
func HEICDecoder() string { return filepath.Join(libraries(), "torchherd-heif") }

// testLibrary returns the path of a library that the C++ build makes for the tests, in the folder test beside libtorchherd.
func testLibrary(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(libraries(), "test", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run make shim", err)
	}
	return path
}

// libraries returns the folder of the libtorchherd that this process uses, or where the system doesn't tell, that of the
// build.
func libraries() string {
	folder := filepath.Join(testdata(), "..", "bin", "lib")
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return folder
	}
	defer func() { _ = maps.Close() }()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if _, path, _ := strings.Cut(lines.Text(), "/"); strings.HasSuffix(path, "/libtorchherd.so") {
			return filepath.Dir("/" + path)
		}
	}
	return folder
}
