package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/torchherd/torchherd/server/internal/listen"
)

// A call is a request to a server on this machine.
type call struct {
	listen       string // the address that the server listens on
	method, path string
	key          string // bearer token; empty: none
}

// maxReply bounds the response to a call in bytes.
const maxReply = 16 << 20

// send sends the request and returns the response's status and body. It uses no proxy: HTTP_PROXY is for other machines.
func (r call) send(ctx context.Context) (status int, body []byte, err error) {
	target, err := dialable(r.listen)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, r.method, r.url(), nil)
	if err != nil {
		return 0, nil, err
	}
	if r.key != "" {
		request.Header.Set("Authorization", "Bearer "+r.key)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return listen.Dial(ctx, target)
		},
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxReply))
	return response.StatusCode, body, err
}

// url returns the request's URL. A unix socket stands for localhost, which is then the Host header.
func (r call) url() string {
	target, err := dialable(r.listen)
	if _, isUnix := listen.UnixPath(target); isUnix || err != nil {
		target = "localhost"
	}
	return "http://" + target + r.path
}

// dialable returns an address at which clients on this machine reach a server that listens on the given address.
func dialable(address string) (string, error) {
	if _, isUnix := listen.UnixPath(address); isUnix {
		return address, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() { // the server listens on all addresses
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
