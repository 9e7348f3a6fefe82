package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/torchherd/torchherd/server/internal/admin"
	"github.com/torchherd/torchherd/server/internal/rollout"
)

// Models is the subcommand models. All of its subcommands except check call a running server's admin API.
type Models struct {
	List     modelsList     `cmd:"" help:"List a server's models with their versions and states."`
	Load     modelsLoad     `cmd:"" help:"Load new versions of a server's model, and wait until they are ready or have failed."`
	Unload   modelsUnload   `cmd:"" help:"Stop serving every version of a server's model until the next load."`
	Promote  modelsPromote  `cmd:"" help:"Make a model's candidate serve in place of the version that does."`
	Rollback modelsRollback `cmd:"" help:"End a model's candidate, or without one serve an older version again."`
	Check    modelsCheck    `cmd:"" help:"Load, warm up, time and describe a model without a server. The exit status is 1 if the model can't be served."`
}

// adminAPI is the admin API of a server.
type adminAPI struct {
	AdminListen  adminAddress  `default:"${admin_listen}" help:"The server's --admin-listen."`
	AdminKeyFile string        `type:"path" help:"File with the key of the server's --admin-key-file." placeholder:"FILE"`
	Timeout      time.Duration `default:"5m" help:"Time limit of the request."`
}

// adminModel is a model of a server.
type adminModel struct {
	adminAPI
	Name string `arg:"" help:"Name of the model, as printed by models list."`
}

type modelsList struct {
	adminAPI
}

// Run prints a line for each version.
func (l *modelsList) Run(p program) error {
	var models []admin.Model
	if err := l.call(http.MethodGet, "/models", &models); err != nil {
		return err
	}
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "MODEL\tVERSION\tSTATE\tSINCE\tREMARKS") // Flush returns the error
	for _, each := range models {
		for _, v := range each.Versions {
			remarks := v.Warnings
			if v.Reason != "" {
				remarks = append([]string{v.Reason}, remarks...)
			}
			_, _ = fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", each.Name, v.Version, v.State, v.Since.Local().Format(time.DateTime), strings.Join(remarks, "; "))
		}
		if r := each.Rollout; r != nil {
			_, _ = fmt.Fprintf(table, "%s\t%s\trollout\t%s\t%s\n", each.Name, r.Version, r.Since.Local().Format(time.DateTime), strings.Join(describeRollout(r), "; "))
		}
		for _, warning := range each.Warnings {
			_, _ = fmt.Fprintf(table, "%s\t\twarning\t\t%s\n", each.Name, warning)
		}
	}
	return table.Flush()
}

type modelsLoad struct{ adminModel }

// Run loads the model's new versions.
func (l *modelsLoad) Run() error { return l.change("load") }

type modelsUnload struct{ adminModel }

// Run unloads the model.
func (u *modelsUnload) Run() error { return u.change("unload") }

type modelsPromote struct{ adminModel }

// Run promotes the model's candidate.
func (m *modelsPromote) Run() error { return m.change("promote") }

type modelsRollback struct{ adminModel }

// Run rolls the model back.
func (m *modelsRollback) Run() error { return m.change("rollback") }

// describeRollout says what is known of a candidate.
func describeRollout(r *rollout.Report) []string {
	var parts []string
	if r.Outcome != "" {
		parts = append(parts, r.Outcome)
	} else if r.Steps > 0 {
		parts = append(parts, fmt.Sprintf("answers %.3g%% of the clients, step %d of %d", 100*r.Share, r.Step, r.Steps))
	}
	parts = append(parts, fmt.Sprintf("%d requests, %d failed", r.Candidate.Requests, r.Candidate.Errors))
	pairs := fmt.Sprintf("%d pairs compared with version %s, %d failed, %d skipped", r.Pairs, r.Against, r.Failures, r.Skipped)
	if r.PSNR != nil {
		pairs += fmt.Sprintf(", PSNR %.1f dB, worst %.1f dB", *r.PSNR, *r.WorstPSNR)
	}
	parts = append(parts, pairs)
	if r.Candidate.P99 > 0 {
		parts = append(parts, fmt.Sprintf("p50 %.1f ms against %.1f ms, p99 %.1f ms against %.1f ms", r.Candidate.P50, r.Serving.P50, r.Candidate.P99, r.Serving.P99))
	}
	for _, lacks := range r.Waits {
		parts = append(parts, "waits for "+lacks)
	}
	if r.Page != "" {
		parts = append(parts, r.Page)
	}
	return parts
}

func (m *adminModel) change(what string) error {
	return m.call(http.MethodPost, "/v2/repository/models/"+url.PathEscape(m.Name)+"/"+what, &struct{}{})
}

// send sends a request and returns the response's status and body.
func (a *adminAPI) send(method, path string) (status int, body []byte, err error) {
	key, err := readKey(a.AdminKeyFile)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.Timeout)
	defer cancel()
	status, body, err = call{listen: string(a.AdminListen), method: method, path: path, key: key}.send(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("call the admin API: %w; is %s the server's --admin-listen?", err, a.AdminListen)
	}
	return status, body, nil
}

// call sends a request and decodes the JSON of its response into result.
func (a *adminAPI) call(method, path string, result any) error {
	status, text, err := a.send(method, path)
	if err != nil {
		return err
	}
	if status == http.StatusOK {
		return json.Unmarshal(text, result)
	}
	var failure struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &failure) != nil || failure.Error == "" {
		return fmt.Errorf("%s: %d %s", call{listen: string(a.AdminListen), path: path}.url(), status, http.StatusText(status))
	}
	return errors.New(failure.Error)
}
