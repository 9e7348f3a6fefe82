//go:build !relocatable

package torch

// Tests and programs built from this tree find the libraries that `make build` put into bin/lib.

// #cgo LDFLAGS: -L${SRCDIR}/../bin/lib -ltorchherd -Wl,-rpath,${SRCDIR}/../bin/lib
import "C"
