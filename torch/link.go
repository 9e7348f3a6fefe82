//go:build !relocatable

package torch

// Tests and programs that are built in this tree use the libraries that `make build` has put into bin/lib.

// #cgo LDFLAGS: -L${SRCDIR}/../bin/lib -ltorchherd -Wl,-rpath,${SRCDIR}/../bin/lib
import "C"
