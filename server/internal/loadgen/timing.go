package loadgen

import (
	"strconv"
	"strings"
	"time"
)

// A metric is an entry of a Server-Timing header (W3C Server Timing): a name with a duration, as `decode;dur=1.2` has
// one in milliseconds, or a description, as `batch;desc="2"` has one.
type metric struct {
	name  string
	timed bool // it has a duration
	took  time.Duration
	size  int // the description, if it is a number
}

// nextMetric reads the header's first entry and returns what comes after it. Of an entry that can't be read only the
// name is told. Quoted texts are taken to have no commas and semicolons, as torchherd's have none.
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
				m.timed, m.took = true, time.Duration(ms*float64(time.Millisecond))
			}
		case "desc":
			m.size, _ = strconv.Atoi(strings.Trim(value, `"`))
		}
	}
	return m, rest
}
