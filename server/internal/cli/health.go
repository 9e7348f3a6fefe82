package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Health is the subcommand health, for containers without curl.
type Health struct {
	URL     string        `default:"http://127.0.0.1:8000/readyz" help:"Address to ask."`
	Timeout time.Duration `default:"3s" help:"How long to wait for the answer."`
}

// Run asks once.
func (h *Health) Run(p program) error {
	ctx, cancel := context.WithTimeout(context.Background(), h.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
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
	answer := strings.TrimSpace(string(text))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d: %s", h.URL, response.StatusCode, answer)
	}
	_, err = fmt.Fprintln(p.out, answer)
	return err
}
