//go:build !race && !asan

package imagecodec_test

const instrumented = false
