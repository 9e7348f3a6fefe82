package main

import (
	"fmt"
	"strings"

	"github.com/torchherd/torchherd/server/internal/metrics"
)

// metricsTable returns the table of metrics.
func metricsTable() string {
	var out strings.Builder
	out.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
	for _, each := range metrics.Definitions() {
		labels := ""
		if len(each.Labels) > 0 {
			labels = "`" + strings.Join(each.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", each.Name, each.Type, labels, each.Help)
	}
	return out.String()
}

// reasonsTable returns the table of reasons.
func reasonsTable() string {
	var out strings.Builder
	out.WriteString("| reason | outcome | |\n|---|---|---|\n")
	for _, each := range metrics.Reasons() {
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", each.Name, each.Outcome, each.Help)
	}
	return out.String()
}
