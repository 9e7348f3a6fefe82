//go:build soak

package main

import (
	"os"
	"strconv"
	"testing"
)

// The model's process ends 1,000 times under load. `make kill-soak` runs this test.
func TestKillSoak(t *testing.T) {
	kills := 1000
	if text := os.Getenv("KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 20 {
			t.Fatalf("KILLS=%s: must be a number, 20 or more", text)
		}
		kills = n
	}
	killUnderLoad(t, kills)
}
