package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// Each request hides another one behind its body. A proxy that reads the first one's framing differently would take the
// response to the hidden one for the response to its next client. So there is one response, and the connection closes.
func TestNoRequestIsSmuggled(t *testing.T) {
	t.Parallel()
	s := start(t, module("negate.pt"))
	const hidden = "GET /healthz HTTP/1.1\r\nHost: herd\r\n\r\n"
	const chunked = "Transfer-Encoding: chunked\r\n"
	ended := "0\r\n\r\n" + hidden
	for _, test := range []struct{ name, headers, body, status string }{
		// net/http goes by the chunks, of which there are none, as RFC 9112 allows.
		{"chunked and Content-Length", fmt.Sprintf("Content-Length: %d\r\n%s", len(ended), chunked), ended, "415"},
		{"Content-Length and chunked", fmt.Sprintf("%sContent-Length: %d\r\n", chunked, len(ended)), ended, "415"},
		{"chunked in a folded line", "Transfer-Encoding:\r\n chunked\r\n", ended, "415"},
		{"trailer with a length", chunked, "0\r\nContent-Length: 100\r\n\r\n" + hidden, "415"},
		{"two lengths", "Content-Length: 0\r\nContent-Length: 3\r\n", "abc" + hidden, "400"},
		{"list of lengths", "Content-Length: 3, 3\r\n", "abc" + hidden, "400"},
		{"length with a sign", "Content-Length: +3\r\n", "abc" + hidden, "400"},
		{"negative length", "Content-Length: -3\r\n", hidden, "400"},
		{"hexadecimal length", "Content-Length: 0x3\r\n", "abc" + hidden, "400"},
		{"length beyond 64 bits", "Content-Length: 18446744073709551619\r\n", "abc" + hidden, "400"},
		{"chunked twice", chunked + chunked, ended, "501"},
		{"chunked, chunked", "Transfer-Encoding: chunked, chunked\r\n", ended, "501"},
		{"identity", "Transfer-Encoding: identity\r\n", hidden, "501"},
		{"xchunked", "Transfer-Encoding: xchunked\r\n", ended, "501"},
		{"vertical tab before chunked", "Transfer-Encoding: \vchunked\r\n", ended, "400"},
		{"space before the colon", "Transfer-Encoding : chunked\r\n", ended, "400"},
		{"space before the name", " Transfer-Encoding: chunked\r\n", ended, "400"},
		{"NUL in a name", "Transfer-Encoding\x00: chunked\r\n", ended, "400"},
		{"bare CR in a value", "X: a\rContent-Length: 100\r\n", hidden, "400"},
		{"bare LF after a chunk size", chunked, "3\nabc\r\n" + ended, "400"},
		{"bare LF in a chunk extension", chunked, "3;a\nb\r\nabc\r\n" + ended, "400"},
		{"0x chunk size", chunked, "0x3\r\nabc\r\n" + ended, "400"},
		{"negative chunk size", chunked, "-3\r\nabc\r\n" + ended, "400"},
		{"chunk size beyond 64 bits", chunked, "ffffffffffffffff3\r\nabc\r\n" + ended, "400"},
		{"chunk longer than its size", chunked, "3\r\nabcd\r\n" + ended, "400"},
		{"two hosts", "Host: other\r\n", hidden, "400"},
	} {
		text, err := s.exchange("POST /image HTTP/1.1\r\nHost: herd\r\n" + test.headers + "\r\n" + test.body)
		if err != nil || strings.Count(text, "HTTP/1.1 ") != 1 || !strings.HasPrefix(text, "HTTP/1.1 "+test.status+" ") {
			t.Errorf("%s: got %q, %v, want one response with status %s", test.name, text, err, test.status)
		}
	}
	// A body that no handler reads isn't the next request either.
	connection := s.dial()
	if _, err := fmt.Fprintf(connection, "GET /healthz HTTP/1.1\r\nHost: herd\r\nContent-Length: %d\r\n\r\n%sGET /nothing HTTP/1.1\r\nHost: herd\r\nConnection: close\r\n\r\n", len(hidden), hidden); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(connection)
	if err != nil || strings.Count(string(text), "HTTP/1.1 200 ") != 1 || strings.Count(string(text), "HTTP/1.1 404 ") != 1 {
		t.Errorf("a GET with a body: got %q, %v, want its response and that of the request after the body", text, err)
	}
}
