package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/torchherd/torchherd/server/internal/admin"
)

// Models is the subcommand models. All but check speak to a running server's --admin-listen.
type Models struct {
	List   modelsList   `cmd:"" help:"List a server's models, their versions and states."`
	Load   modelsLoad   `cmd:"" help:"Load new versions of a server's model; returns when they serve, or with the reason why they can't."`
	Unload modelsUnload `cmd:"" help:"Serve no version of a server's model any more, until the next load."`
	Check  modelsCheck  `cmd:"" help:"Load, warm, time and describe a model, without a server; exits with 1 and the reason if it can't be served."`
}

// adminAddress is where a server's administration listens.
type adminAddress struct {
	AdminListen string        `default:"${admin_listen}" help:"The server's --admin-listen."`
	Timeout     time.Duration `default:"5m" help:"How long to wait at most."`
}

type modelsList struct {
	adminAddress
}

// Run prints a line for each version.
func (l *modelsList) Run(p program) error {
	var models []admin.Model
	if err := l.ask(http.MethodGet, "/models", &models); err != nil {
		return err
	}
	table := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "MODEL\tVERSION\tSTATE\tSINCE\tREASON") // Flush tells of errors
	for _, each := range models {
		for _, v := range each.Versions {
			_, _ = fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", each.Name, v.Version, v.State, v.Since.Local().Format(time.DateTime), v.Reason)
		}
	}
	return table.Flush()
}

type modelsLoad struct {
	adminAddress
	Name string `arg:"" help:"The model's name, as the list has it."`
}

// Run loads the model's new versions.
func (l *modelsLoad) Run() error { return l.change(l.Name, "load") }

type modelsUnload struct {
	adminAddress
	Name string `arg:"" help:"The model's name, as the list has it."`
}

// Run unloads the model.
func (u *modelsUnload) Run() error { return u.change(u.Name, "unload") }

func (a *adminAddress) change(name, what string) error {
	return a.ask(http.MethodPost, "/v2/repository/models/"+url.PathEscape(name)+"/"+what, &struct{}{})
}

// ask sends a request and reads the JSON of its answer.
func (a *adminAddress) ask(method, path string, into any) error {
	address, err := dialable(a.AdminListen)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no answer from the server's administration: %w; is %s its --admin-listen?", err, a.AdminListen)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusOK {
		return json.Unmarshal(text, into)
	}
	var failure struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &failure) != nil || failure.Error == "" {
		return fmt.Errorf("%s answered %s", path, response.Status)
	}
	return errors.New(failure.Error)
}
