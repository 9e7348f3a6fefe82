package torch_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// A hardened system mounts its folder for temporary files noexec.
func TestAPackageInANoexecFolder(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOEXEC, "size=64m"); err != nil {
		t.Skipf("mounting a file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	m, err := torch.Load(goldens.Path("modules/negate.pt2"), torch.Options{PackageFolder: dir})
	switch {
	case err == nil:
		_ = m.Close()
		t.Fatal("the package was loaded, want an error")
	case errors.Is(err, torch.ErrDevice):
		t.Skip(err)
	case errors.Is(err, torch.ErrNotAModule) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "--package-folder"):
		t.Errorf("got %v, want the folder and --package-folder", err)
	}
	expectEmpty(t, dir)
}
