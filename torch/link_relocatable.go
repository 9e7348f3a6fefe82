//go:build relocatable

package torch

// A program that is built with this tag uses the libraries in the directory lib beside it, so that both can be moved
// together.

// #cgo LDFLAGS: -L${SRCDIR}/../bin/lib -ltorchherd
// #cgo linux LDFLAGS: -Wl,-rpath,$ORIGIN/lib
// #cgo darwin LDFLAGS: -Wl,-rpath,@loader_path/lib
import "C"
