package listen

import "testing"

func TestTheDescriptorLimitIsShared(t *testing.T) {
	for _, test := range []struct {
		limit               uint64
		open, images, admin int
	}{
		{16, 10, 1, 1},
		{40, 10, 16, 5},
		{256, 10, 137, 46},
		{1024, 10, 884, 64},
		{1 << 20, 10, mostByDefault, 64},
		{1<<64 - 1, 10, mostByDefault, 64},
		{4, 10, 1, 1},
	} {
		images, admin := share(test.limit, test.open)
		if images != test.images || admin != test.admin {
			t.Errorf("share(%d, %d) = %d, %d, want %d, %d", test.limit, test.open, images, admin, test.images, test.admin)
		}
	}
}
