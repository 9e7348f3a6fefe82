package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// access decides which requests are accepted.
//
// A page on the web can make the browser of someone who looks at it send requests to this machine. Cross-origin requests
// are refused, so a page can't change anything. A page whose own name resolves to this machine (DNS rebinding) isn't
// cross-origin, so requests must not name a host that isn't known to be this server. An IP address is no such name.
type access struct {
	hosts  []string
	key    *[sha256.Size]byte // the key's hash; nil: none
	origin *http.CrossOriginProtection
}

func newAccess(config Config) *access {
	a := &access{hosts: []string{"localhost"}, origin: http.NewCrossOriginProtection()}
	if host, _, err := net.SplitHostPort(config.Listen); err == nil && host != "" {
		a.hosts = append(a.hosts, strings.ToLower(host))
	}
	for _, host := range config.Hosts {
		a.hosts = append(a.hosts, strings.ToLower(host))
	}
	if config.Key != "" {
		hash := sha256.Sum256([]byte(config.Key))
		a.key = &hash
	}
	return a
}

// check is Echo middleware.
func (a *access) check(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		request := c.Request()
		if !a.knows(request) {
			return echo.NewHTTPError(http.StatusForbidden, "unknown host in the Host header: use localhost or an IP address, or add the name by --admin-hosts")
		}
		if err := a.origin.Check(request); err != nil {
			return echo.NewHTTPError(http.StatusForbidden, err.Error())
		}
		if !a.authenticated(request) {
			c.Response().Header().Set(echo.HeaderWWWAuthenticate, "Bearer")
			return echo.NewHTTPError(http.StatusUnauthorized, "send the key in --admin-key-file as Authorization: Bearer KEY")
		}
		return next(c)
	}
}

// knows reports whether a request's Host is one of this server. No page can reach a unix socket, and a client without a
// Host isn't a browser.
func (a *access) knows(request *http.Request) bool {
	if request.Host == "" || isUnix(request) {
		return true
	}
	host := request.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return slices.Contains(a.hosts, host) || strings.HasSuffix(host, ".localhost")
}

func isUnix(request *http.Request) bool {
	local, ok := request.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// authenticated reports whether the request has the key. Comparing hashes takes as long for any key.
func (a *access) authenticated(request *http.Request) bool {
	if a.key == nil {
		return true
	}
	scheme, token, _ := strings.Cut(request.Header.Get(echo.HeaderAuthorization), " ")
	hash := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(hash[:], a.key[:]) == 1
}
