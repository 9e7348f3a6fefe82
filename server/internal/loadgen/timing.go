package loadgen

import (
	"strconv"
	"strings"
	"time"
)

// A metric is an entry of a Server-Timing header (W3C Server Timing): a name with a duration in milliseconds, such as
// `decode;dur=1.2`, or with a description, such as `batch;desc="2"`.
type metric struct {
	name     string
	timed    bool // it has a duration
	duration time.Duration
	size     int // the description, if it is a number
}

// nextMetric parses the first entry of a header and returns the rest of the header. If the entry is invalid, only its
// name is set. Commas and semicolons in quoted strings aren't supported: torchherd sends none.
func nextMetric(header string) (m metric, rest string) {
	entry, rest, _ := strings.Cut(header, ",")
	name, parameters, _ := strings.Cut(entry, ";")
	m.name = strings.TrimSpace(name)
	for parameters != "" {
		var parameter string
		parameter, parameters, _ = strings.Cut(parameters, ";")
		key, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		switch strings.ToLower(key) {
		case "dur":
			ms, err := strconv.ParseFloat(value, 64)
			const longest = float64(2 * MaxDuration / time.Millisecond)
			if err == nil && ms >= 0 && ms <= longest {
				m.timed, m.duration = true, time.Duration(ms*float64(time.Millisecond))
			}
		case "desc":
			m.size, _ = strconv.Atoi(strings.Trim(value, `"`))
		}
	}
	return m, rest
}
