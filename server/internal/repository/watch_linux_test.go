package repository_test

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// What is written below an overlay isn't reported to a watch of the overlay, just as on NFS; polling finds it.
func TestPollOverlay(t *testing.T) {
	base := tree(t, map[string]string{"lower/x": "", "upper/m/1/model.pt": "one", "work/x": "", "merged/x": ""})
	merged := filepath.Join(base, "merged")
	err := syscall.Mount("overlay", merged, "overlay", 0, "lowerdir="+filepath.Join(base, "lower")+",upperdir="+filepath.Join(base, "upper")+",workdir="+filepath.Join(base, "work"))
	if err != nil {
		t.Skipf("no overlay can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(merged, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(merged, "m", "1", "model.pt")
	changed := watch(t, path, 5*time.Millisecond)
	put(t, filepath.Join(base, "upper", "m", "1", "model.pt"), "two")
	awaitContent(t, path, "two", changed)
}
