package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Health is the subcommand health, for containers without curl.
type Health struct {
	Listen  address       `default:":8000" help:"The server's --listen."`
	Timeout time.Duration `default:"3s" help:"Time limit of the request."`
}

// Run sends one request to /readyz and prints the response.
func (h *Health) Run(p program) error {
	ctx, cancel := context.WithTimeout(context.Background(), h.Timeout)
	defer cancel()
	request := call{listen: string(h.Listen), method: http.MethodGet, path: "/readyz"}
	status, text, err := request.send(ctx)
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(string(text))
	if status != http.StatusOK {
		return fmt.Errorf("%s: %d: %s", request.url(), status, reason)
	}
	_, err = fmt.Fprintln(p.out, reason)
	return err
}
