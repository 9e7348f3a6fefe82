package cpu

import (
	"errors"
	"runtime"
	"testing"
)

// A small model gets one thread; a large one gets the cores, divided between its instances.
func TestChooseThreads(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	small := func() error { return nil }
	large := func() error {
		for start := ThreadTime(); ThreadTime()-start < 2*smallForward; {
		}
		return nil
	}
	for _, test := range []struct {
		name             string
		cores, instances int
		forward          func() error
		want             int
	}{
		{"small", 8, 1, small, 1},
		{"large", 8, 1, large, 8},
		{"large, three instances", 8, 3, large, 2},
		{"more instances than cores", 2, 3, large, 1},
	} {
		if got, err := ChooseThreads(test.cores, test.instances, ThreadTime, test.forward); got != test.want || err != nil {
			t.Errorf("%s: %d threads, want %d; %v", test.name, got, test.want, err)
		}
	}
	why := errors.New("why")
	if _, err := ChooseThreads(2, 1, ThreadTime, func() error { return why }); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
