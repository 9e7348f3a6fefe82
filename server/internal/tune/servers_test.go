package tune

import (
	"context"
	"image"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// That servers are measured is tested with the whole command, in server. Here programs stand in for it that do what it
// should never do.

// program writes a shell script.
func program(t *testing.T, script string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

func measure(t *testing.T, program string, sending func(context.CancelFunc)) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	servers := &Servers{Config: Config{Clients: 1, Duration: 1}, Program: program, Images: [][]byte{loadgen.DefaultImage}}
	_, err := servers.Measure(ctx, Defaults(), func(loadgen.Progress) { sending(cancel) })
	return err
}

func TestAServerThatEndsByItself(t *testing.T) {
	const ready = `echo '{"message":"listening","address":"127.0.0.1:1"}' >&2; echo '{"message":"ready"}' >&2; `
	for script, want := range map[string]string{
		"exit 0":                    "the server ended by itself",
		"exit 7":                    "the server ended by itself: exit status 7",
		"echo oh dear >&2; exit 7":  "exit status 7; it said: oh dear",
		"kill -9 $$":                "signal: killed",
		ready + "kill -9 $$":        "signal: killed",
		"echo torchherd: no >&2":    "no",
		"echo 'torchherd: a\nb'>&2": "a\nb",
	} {
		err := measure(t, program(t, script), func(context.CancelFunc) {})
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v instead of %s", script, err, want)
		}
	}
	if err := measure(t, "no such program", nil); err == nil {
		t.Error("a program that isn't there was measured")
	}
}

// A server that doesn't heed SIGTERM is killed, or this test would last for its hour.
func TestAServerThatDoesNotEnd(t *testing.T) {
	script := `trap '' TERM; echo '{"address":"127.0.0.1:1","message":"ready"}' >&2; exec sleep 3600`
	if err := measure(t, program(t, script), func(stop context.CancelFunc) { stop() }); err == nil {
		t.Error("a server that didn't listen was measured")
	}
}

func TestPSNR(t *testing.T) {
	uniform := func(value uint8) pixels {
		p := image.NewNRGBA(image.Rect(0, 0, 4, 2))
		for i := range p.Pix {
			p.Pix[i] = value
			if i%4 == 3 {
				p.Pix[i] = 255
			}
		}
		return p
	}
	one := uniform(10)
	one.Pix[0] += 20 // one of 24 values
	for _, test := range []struct {
		a, b pixels
		want float64
	}{
		{uniform(10), uniform(10), MaxPSNR},
		{uniform(10), uniform(11), 20 * math.Log10(255)},
		{uniform(0), uniform(255), 0},
		{uniform(10), one, 10 * math.Log10(255*255*24/400.0)},
	} {
		for _, pair := range [][2]pixels{{test.a, test.b}, {test.b, test.a}} {
			if got, err := psnr(pair[0], pair[1]); err != nil || math.Abs(got-test.want) > 1e-9 {
				t.Errorf("%v dB instead of %v, %v", got, test.want, err)
			}
		}
	}
	if _, err := psnr(uniform(1), image.NewNRGBA(image.Rect(0, 0, 2, 4))); err == nil {
		t.Error("pictures of different sizes were compared")
	}
}
