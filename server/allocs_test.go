//go:build !race

// The race detector makes memory of its own.

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"testing"
)

// maxAllocs is how many pieces of memory one request may take from Go's heap, all goroutines of the server together.
// A change that raises it should have a good reason, or the collector will be the next thing to make faster.
const maxAllocs = 64

// The client writes the same bytes and reads into the same memory each time, so what is counted is the server's.
func TestAllocationsOfARequest(t *testing.T) {
	connection, err := net.Dial("tcp", serveNegate(t).address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	data := photograph(t, "jpeg-228.jpg")
	request := append(fmt.Appendf(nil, "PUT /image HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n", len(data)), data...)
	answers := bufio.NewReader(connection)
	exchange := func() {
		if _, err := connection.Write(request); err != nil {
			t.Fatal(err)
		}
		if err := skipAnswer(answers); err != nil {
			t.Fatal(err)
		}
	}
	exchange() // the connection's own memory
	if allocs := testing.AllocsPerRun(200, exchange); allocs > maxAllocs {
		t.Errorf("a request allocates %v times, more than %d", allocs, maxAllocs)
	}
}

// skipAnswer reads an answer with status 200 to its end, without allocating.
func skipAnswer(answers *bufio.Reader) error {
	line, err := answers.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answered %q", line)
	}
	length := 0
	for {
		line, err := answers.ReadSlice('\n')
		if err != nil {
			return err
		}
		if value, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			for _, digit := range bytes.TrimSpace(value) {
				length = 10*length + int(digit-'0')
			}
		}
		if len(bytes.TrimSpace(line)) == 0 {
			_, err := answers.Discard(length)
			return err
		}
	}
}
