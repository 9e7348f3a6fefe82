//go:build soak && !race

package main

import "testing"

// Photographs of 48 megapixels go through models in memory that their pixels bound. `make tiles-soak` runs this test.
func TestTilesSoak(t *testing.T) {
	expectTilesMemory(t, 8000, 6000, 1)
	expectTilesMemory(t, 8000, 6000, 2)
}
