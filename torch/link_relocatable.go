//go:build relocatable

package torch

// A program built with this tag finds the libraries in a folder lib beside itself, so that the two can be moved
// together.

// #cgo LDFLAGS: -L${SRCDIR}/../bin/lib -ltorchherd
// #cgo linux LDFLAGS: -Wl,-rpath,$ORIGIN/lib
// #cgo darwin LDFLAGS: -Wl,-rpath,@loader_path/lib
import "C"
