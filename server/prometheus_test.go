package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/torchherd/torchherd/server/internal/metrics"
)

// promtool runs Prometheus's tool on the files in deploy/prometheus.
func promtool(t *testing.T, arguments ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program(t, "promtool"), arguments...)
	command.Dir = "../deploy/prometheus"
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "--lint-fatal", "alerts.yml")
	promtool(t, "test", "rules", "alerts_test.yml")
}

// A dashboard is what the tests read of Grafana's.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// queries returns the queries of the dashboard by their panels, with values in place of Grafana's variables.
func queries(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../deploy/grafana/torchherd.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			query := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*", "$model", ".*").Replace(target.Expr)
			found[panel.Title] = append(found[panel.Title], query)
		}
	}
	return found
}

// The dashboard and the alerts name only metrics that are defined.
func TestMetricsOfTheDashboard(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, d := range metrics.Definitions() {
		known[d.Name] = true
		if d.Type == "histogram" {
			known[d.Name+"_bucket"], known[d.Name+"_sum"], known[d.Name+"_count"] = true, true, true
		}
	}
	alerts, err := os.ReadFile("../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^ *#.*$`).ReplaceAllString(string(alerts), "")
	for _, panel := range queries(t) {
		text += strings.Join(panel, "\n")
	}
	names := regexp.MustCompile(`\btorchherd_[a-z_]+`).FindAllString(text, -1)
	if len(names) < 20 {
		t.Errorf("only %d metrics are used", len(names))
	}
	for _, name := range names {
		if !known[name] {
			t.Errorf("no metric %s is defined", name)
		}
	}
}

// A prometheus is a running one.
type prometheus struct{ api target }

// startPrometheus starts one that scrapes a server's admin address five times a second, with the rules of deploy/prometheus.
func startPrometheus(t *testing.T, scraped string) prometheus {
	t.Helper()
	path := program(t, "prometheus")
	rules, err := filepath.Abs("../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: torchherd, static_configs: [{targets: [%q]}]}]\n", rules, scraped)
	file := filepath.Join(folder, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	api := startListening(t, address, path, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(folder, "data"), "--web.listen-address="+address)
	return prometheus{api}
}

// get reads an answer of the API (https://prometheus.io/docs/prometheus/latest/querying/api/).
func (p prometheus) get(path string, into any) error {
	response, err := p.api.try(http.MethodGet, "/api/v1/"+path, nil)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(response.body, &answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// query returns how many series a query has now.
func (p prometheus) query(text string) (series int, err error) {
	var data struct{ Result []json.RawMessage }
	err = p.get("query?query="+url.QueryEscape(text), &data)
	return len(data.Result), err
}

// A real Prometheus scrapes a server under load: each query of the dashboard has a result, and each rule can be evaluated.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	program(t, "prometheus") // before a server starts for it
	s := start(t, module("negate.pt"))
	photo := photograph(t, "jpeg-small.jpg")
	p := startPrometheus(t, strings.TrimPrefix(s.admin.url, "http://"))
	load := func() {
		if r := s.put(photo); r.status != 200 {
			t.Fatalf("%d, %s", r.status, r.body)
		}
		s.put([]byte("no image"))
	}
	// A rate needs two scrapes that see a counter: before the last requests, and after them.
	load()
	if !poll(func() bool {
		n, err := p.query(`torchherd_request_errors_total{model="negate", reason="unknown_format"}`)
		return err == nil && n == 1
	}) {
		t.Fatal("the server isn't scraped")
	}
	for panel, all := range queries(t) {
		for _, text := range all {
			var failure error
			found := poll(func() bool {
				load()
				var n int
				n, failure = p.query(text)
				return failure != nil || n > 0
			})
			if failure != nil || !found {
				t.Errorf("%s: no result of %s, %v", panel, text, failure)
			}
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError, State string }
		}
	}
	count := 0
	if !poll(func() bool {
		if err := p.get("rules", &rules); err != nil {
			return false
		}
		count = 0
		for _, group := range rules.Groups {
			for _, rule := range group.Rules {
				count++
				if rule.Health == "unknown" { // not evaluated yet
					return false
				}
			}
		}
		return count > 0
	}) {
		t.Fatal("the rules aren't evaluated")
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Health != "ok" || rule.State == "firing" {
				t.Errorf("%s is %s and %s: %s", rule.Name, rule.Health, rule.State, rule.LastError)
			}
		}
	}
	if count < 13 {
		t.Errorf("%d rules", count)
	}
}
