package admin

import (
	"net/http"
	"net/http/pprof"

	"github.com/labstack/echo/v4"
)

// Debug is what the admin API tells about the process, beside Go's profiles.
type Debug struct {
	Log      func() []byte  // the last lines of the log; nil: none
	Settings map[string]any // the values of the flags by their names, without secrets
}

// routes adds what `torchherd debug bundle` collects. The profiles are those of net/http/pprof; a profile of a time that
// is longer than WriteTimeout is refused.
func (d *Debug) routes(e *echo.Echo) {
	for path, handler := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/:name": pprof.Index, // the names of runtime/pprof
		"/debug/pprof/profile": pprof.Profile, "/debug/pprof/trace": pprof.Trace, "/debug/pprof/symbol": pprof.Symbol,
	} {
		e.GET(path, echo.WrapHandler(handler))
	}
	e.GET("/debug/log", func(c echo.Context) error {
		var lines []byte
		if d.Log != nil {
			lines = d.Log()
		}
		return c.Blob(http.StatusOK, "text/plain; charset=utf-8", lines)
	})
	e.GET("/debug/settings", func(c echo.Context) error { return c.JSONPretty(http.StatusOK, d.Settings, "  ") })
}
