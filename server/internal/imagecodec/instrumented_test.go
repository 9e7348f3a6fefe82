//go:build race || asan

package imagecodec_test

// instrumented reports whether a sanitizer is on, which takes memory of its own.
const instrumented = true
