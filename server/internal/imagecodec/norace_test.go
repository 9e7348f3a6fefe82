//go:build !race

package imagecodec_test

const raceEnabled = false
