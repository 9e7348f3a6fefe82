package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// maxPath is the maximum length of a unix socket's path in bytes: the kernel's 108, less one for its end (macOS: 104).
const maxPath = 103

const unixPrefix = "unix:"

// UnixPath returns the path in unix:PATH, and whether the address has this form.
func UnixPath(address string) (string, bool) { return strings.CutPrefix(address, unixPrefix) }

// Address returns the address of a listener: host:port or unix:PATH.
func Address(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return unixPrefix + l.Addr().String()
	}
	return l.Addr().String()
}

// Check returns an error if an address has neither of the forms host:port and unix:PATH. The host may be empty, the port
// may not.
func Check(address string) error {
	if path, isUnix := UnixPath(address); isUnix {
		if path == "" {
			return errors.New("the path of the unix socket is missing: use unix:PATH")
		}
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return fmt.Errorf("invalid address %q: use host:port, :port or unix:PATH", address)
	}
	return nil
}

// Dial connects to a server that listens on an address of the form host:port or unix:PATH.
func Dial(ctx context.Context, address string) (net.Conn, error) {
	network := "tcp"
	if path, isUnix := UnixPath(address); isUnix {
		network, address = "unix", path
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// removeStale removes a socket at which no process listens.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen unix:%s: the path exists and isn't a socket", path)
	}
	conn, err := Dial(ctx, unixPrefix+path)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("listen unix:%s: another process listens there: %w", path, syscall.EADDRINUSE)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	return os.Remove(path)
}
