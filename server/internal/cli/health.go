package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Health is the subcommand health, for containers without curl.
type Health struct {
	Listen  string        `default:":8000" help:"The server's --listen."`
	Timeout time.Duration `default:"3s" help:"Time limit of the request."`
}

// Run sends one request to /readyz and prints the response.
func (h *Health) Run(p program) error {
	ctx, cancel := context.WithTimeout(context.Background(), h.Timeout)
	defer cancel()
	address, err := dialable(h.Listen)
	if err != nil {
		return err
	}
	url := "http://" + address + "/readyz"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1024))
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(string(text))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d: %s", url, response.StatusCode, reason)
	}
	_, err = fmt.Fprintln(p.out, reason)
	return err
}

// dialable returns an address at which clients on this machine reach a server that listens on the given address.
func dialable(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() { // the server listens on all addresses
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
