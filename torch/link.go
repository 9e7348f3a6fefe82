//go:build !relocatable

package torch

// Tests and programs that are built in this tree use the libraries that `make build` has put into bin/lib. The path isn't
// part of -Wl, which would split it at a comma; cgo doesn't allow -Xlinker. The compiler passes both arguments on in order.

// #cgo LDFLAGS: -L${SRCDIR}/../bin/lib -ltorchherd -Wl,-rpath ${SRCDIR}/../bin/lib
import "C"
