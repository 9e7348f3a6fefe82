//go:build !race

// The race detector allocates memory of its own.

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"testing"
)

// maxAllocs limits the allocations of one request on Go's heap, by all goroutines of the server together. More of them would
// make garbage collection a bottleneck.
const maxAllocs = 64

// The client writes the same bytes and reads into the same memory each time, so only the server allocates.
func TestARequestAllocatesLittle(t *testing.T) {
	connection, err := net.Dial("tcp", serveNegate(t).address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	data := photograph(t, "jpeg-228.jpg")
	request := append(fmt.Appendf(nil, "PUT /image HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n", len(data)), data...)
	responses := bufio.NewReader(connection)
	exchange := func() {
		if _, err := connection.Write(request); err != nil {
			t.Fatal(err)
		}
		if err := skipResponse(responses); err != nil {
			t.Fatal(err)
		}
	}
	exchange() // allocates the memory of the connection
	if allocs := testing.AllocsPerRun(200, exchange); allocs > maxAllocs {
		t.Errorf("%v allocations per request, want at most %d", allocs, maxAllocs)
	}
}

// skipResponse reads a response with status 200 to its end, without allocating.
func skipResponse(responses *bufio.Reader) error {
	line, err := responses.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("got %q, want status 200", line)
	}
	length := 0
	for {
		line, err := responses.ReadSlice('\n')
		if err != nil {
			return err
		}
		if value, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			for _, digit := range bytes.TrimSpace(value) {
				length = 10*length + int(digit-'0')
			}
		}
		if len(bytes.TrimSpace(line)) == 0 {
			_, err := responses.Discard(length)
			return err
		}
	}
}
