package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// run runs the command and returns its exit status and output.
func run(arguments ...string) (status int, out, err string) {
	var stdout, stderr bytes.Buffer
	status = Run("1.2.3", arguments, &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// parse reads a serve command without running it.
func parse(t *testing.T, arguments ...string) (Serve, error) {
	t.Helper()
	c := &commands{}
	parser, err := newParser(c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(append([]string{"serve"}, arguments...))
	return c.Serve, err
}

// settingsOf returns the settings with which s serves a model without settings of its own.
func settingsOf(s Serve) settings.Settings {
	m := settings.Default()
	s.override(&m)
	return m
}

func module(name string) string { return goldens.Path("modules/" + name) }

// write writes a config file and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreTheDemos(t *testing.T) {
	s, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	m := settingsOf(s)
	if m.MaxBatchSize != 2 || m.MaxQueueSize != 3 || m.MaxWait != time.Second || s.MaxUpload != 1<<22 ||
		m.Size != (settings.Size{Width: 228, Height: 228}) || s.Listen != ":8000" || m.Quality != 75 {
		t.Errorf("got %+v, %+v, want the constants of the Sanic demo", s, m)
	}
}

func TestFlagOverridesEnvironmentOverridesFileOverridesDefault(t *testing.T) {
	file := write(t, "max-wait: 2s\nmax-batch-size: 20\nmax-queue-size: 30\nmax-upload: 1MiB\nsize: 64x32\n")
	t.Setenv("TORCHHERD_MAX_BATCH_SIZE", "200")
	t.Setenv("TORCHHERD_MAX_QUEUE_SIZE", "300")
	s, err := parse(t, "--config", file, "--max-queue-size", "3000")
	if err != nil {
		t.Fatal(err)
	}
	m := settingsOf(s)
	if m.MaxQueueSize != 3000 || m.MaxBatchSize != 200 || m.MaxWait != 2*time.Second || s.MaxUpload != 1<<20 ||
		m.Size != (settings.Size{Width: 64, Height: 32}) || m.Quality != 75 {
		t.Errorf("got %+v, %+v", s, m)
	}
	t.Setenv("TORCHHERD_CONFIG", file)
	if s, err = parse(t); err != nil || *s.MaxWait != 2*time.Second {
		t.Errorf("with TORCHHERD_CONFIG: max-wait = %v, %v, want 2s", s.MaxWait, err)
	}
}

// A flag takes the same values as its setting in model.yaml, and has its help and default.
func TestFlagsAreSettings(t *testing.T) {
	s, err := parse(t, "--device=cuda:1,cpu", "--precision=bf16", "--size=keep", "--wait-policy=fixed", "--cuda-graphs")
	if err != nil {
		t.Fatal(err)
	}
	m := settingsOf(s)
	if m.Device.String() != "cuda:1,cpu" || m.Precision != torch.BF16 || !m.Size.Keep() || m.WaitPolicy != settings.Fixed || !m.CUDAGraphs {
		t.Errorf("got %+v, want the values of the flags", m)
	}
	if s, err = parse(t, "--device=auto"); err != nil || s.Device == nil {
		t.Fatalf("--device=auto: %v, %v", s.Device, err)
	}
	m.Device = settings.Devices{torch.CPU} // the model's own
	if s.override(&m); len(m.Device) != 0 {
		t.Errorf("with --device=auto: device = %v, want auto", m.Device)
	}
	_, out, _ := run("serve", "--help")
	text := strings.Join(strings.Fields(out), " ")
	for _, setting := range settings.All() {
		flag := strings.Contains(text, "--"+setting.Key+" ") || strings.Contains(text, "--"+setting.Key+"="+setting.Default()+" ")
		if flag != strings.Contains(text, strings.TrimSuffix(setting.PlainHelp(), ".")) {
			t.Errorf("--%s: the help or default differs from the setting's", setting.Key)
		}
	}
}

func TestErrorsOfServeNameTheMistake(t *testing.T) {
	for _, test := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"--max-wiat=1s"}, `did you mean "--max-wait"?`},
		{[]string{"--max-wait=soon"}, "--max-wait"},
		{[]string{"--size=228"}, "228x228"},
		{[]string{"--size=0x5"}, "228x228"},
		{[]string{"--max-upload=much"}, "4MiB"},
		{[]string{"--wait-policy=never"}, "adaptive"},
		{[]string{"--compat=flask"}, "sanic"},
		{[]string{"--config=/nonexistent.yaml"}, "nonexistent"},
		{[]string{"--config=" + write(t, "max-wat: 1s\n")}, `unknown setting "max-wat"; did you mean max-wait?`},
		{[]string{"--config=" + write(t, "max-wait: [1\n")}, "config file"},
		{[]string{"--config=" + write(t, "timeout: 1s\n")}, `unknown setting "timeout"`},
		{[]string{"--max-batch-size=0"}, "max-batch-size is 0"},
		{[]string{"--quality=0"}, "quality"},
		{[]string{"--precision=int8"}, `torchherd: --precision: unknown precision "int8"; use fp32, tf32, bf16 or fp16`},
		{[]string{"--require=some"}, "all"},
		{[]string{"--device=gpu"}, "cuda:N"},
		{[]string{"--device=cpu,cpu"}, "for more copies on one device set instances"},
		{[]string{"--device=cpu,cuda:99"}, "cuda:99"},
		{[]string{"--threads=-1"}, "threads is -1"},
		{[]string{"--instances=0"}, "instances is 0"},
		{[]string{"--listen=127.0.0.1:99999"}, "--listen"},
		{[]string{"--listen="}, "--listen: the address is empty"},
		{[]string{"--admin-listen", ""}, "--admin-listen: the address is empty"},
		{[]string{"--listen=localhost"}, "host:port"},
		{[]string{"--listen=localhost:"}, "host:port"},
		{[]string{"--admin-listen=8002"}, "host:port"},
		{[]string{"--listen=unix:"}, "unix:PATH"},
		{[]string{"--max-upload=0"}, "--max-upload is 0: no image would be accepted"},
		{[]string{"--max-pixels=0"}, "--max-pixels is 0: no image would be accepted"},
		{[]string{"--max-connections=-1"}, "--max-connections is -1"},
		{[]string{"--max-connections-per-address=-1"}, "--max-connections-per-address is -1"},
		{[]string{"no-such-model.pt"}, "no-such-model.pt"},
		{[]string{goldens.Path("modules")}, "model files are not in version folders; rename one to 1/model.pt"},
		{[]string{module("checkpoint.pth")}, "torchherd_tools export"},
		{[]string{"--max-batch-size=4", module("no_batch_two.pt")}, "the model can't be batched: it runs 1 image, but fails with 2 (this module refuses a batch of two); it works with max-batch-size: 1 in model.yaml"},
		{[]string{module("no_size.pt")}, `invalid size "large"`},
		{[]string{module("negate.pt"), module("negate.pt")}, `two models are named "negate"`},
		{[]string{module("two_channels.pt")}, "1, 3 or 4, height, width"},
	} {
		arguments := append([]string{"serve", "--listen=127.0.0.1:0", "--admin-listen=off"}, test.arguments...)
		if status, out, err := run(arguments...); status == 0 || out != "" || !strings.Contains(err, test.want) {
			t.Errorf("%v: got status %d, stdout %q, stderr %q, want an error with %q", test.arguments, status, out, err, test.want)
		}
	}
}

// Compose files set variables that are empty. Package net would take an empty address for every interface and any port.
func TestAnEmptyAddressInTheEnvironmentIsAUsageError(t *testing.T) {
	for variable, flag := range map[string]string{"TORCHHERD_LISTEN": "--listen", "TORCHHERD_ADMIN_LISTEN": "--admin-listen"} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, "")
			for _, command := range [][]string{{"serve"}, {"health"}, {"models", "list"}} {
				if command[0] == "health" && flag != "--listen" || command[0] == "models" && flag != "--admin-listen" {
					continue
				}
				if status, _, err := run(command...); status != 2 || !strings.Contains(err, flag+": the address is empty") {
					t.Errorf("%v: got status %d, %q, want 2 and %s", command, status, err, flag)
				}
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	status, out, _ := run("--help")
	if status != 0 || !strings.Contains(out, "serve") || !strings.Contains(out, "TORCHHERD_MAX_WAIT") {
		t.Errorf("--help: got status %d, %q", status, out)
	}
	status, out, _ = run("serve", "--help")
	for _, constant := range []string{"MAX_BATCH_SIZE", "MAX_QUEUE_SIZE", "MAX_WAIT", "MAX_SIZE"} {
		if status != 0 || !strings.Contains(out, constant) {
			t.Errorf("serve --help: got status %d, want 0 and %s in %s", status, constant, out)
		}
	}
	status, out, _ = run("version")
	if status != 0 || !strings.Contains(out, "torchherd 1.2.3") || !strings.Contains(out, "LibTorch 2.") {
		t.Errorf("version: got status %d, %q", status, out)
	}
}

func TestUsageErrorsNameTheCommand(t *testing.T) {
	for want, arguments := range map[string][]string{
		"Run \"torchherd --help\" for usage.\n":             nil,
		"Run \"torchherd serve --help\" for usage.\n":       {"serve", "--fast"},
		"Run \"torchherd models load --help\" for usage.\n": {"models", "load"},
	} {
		if status, out, err := run(arguments...); status != 2 || out != "" || !strings.HasSuffix(err, want) {
			t.Errorf("%q: got status %d, stdout %q, stderr %q, want status 2 and %q", arguments, status, out, err, want)
		}
	}
}

func TestHealthWithoutAServerFails(t *testing.T) {
	if status, _, err := run("health", "--listen", "127.0.0.1:1"); status != 1 || !strings.Contains(err, "refused") {
		t.Errorf("got status %d, %q, want 1 and \"refused\"", status, err)
	}
}

var _ kong.Resolver = (*fileResolver)(nil)

func TestRolloutFlagsAreChecked(t *testing.T) {
	for want, flags := range map[string][]string{
		`--shadow: "5" is not a share: use a percentage above 0, such as 5%`: {"--shadow", "5"},
		`--canary: "10%,5%" doesn't ascend`:                                  {"--canary", "10%,5%"},
		`--canary-rule: rule "psnr<3": use errors<0.1%, psnr>30`:             {"--canary-rule", "psnr<3", "--canary", "5%"},
		`--canary-step is -1s`:                                               {"--canary-step=-1s"},
		`--evidence-dir: nothing is compared without --shadow or --canary`:   {"--evidence-dir", "x"},
		`--canary-key: no client is moved without --canary`:                  {"--canary-key", "X-User"},
	} {
		if _, err := parse(t, flags...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", flags, err, want)
		}
	}
}

// A model's own flag comes before that of all models.
func TestRolloutFlags(t *testing.T) {
	s, err := parse(t, "--canary", "1%,100%", "--canary", "a=50%", "--shadow", "b=20%", "--canary-rule", "errors<1% psnr>30", "--evidence-dir", "/e")
	if err != nil {
		t.Fatal(err)
	}
	plans, err := s.plans()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		steps  int
		shadow float64
	}{"": {2, 0.05}, "a": {1, 0.05}, "b": {2, 0.2}} {
		if p := plans[name]; len(p.Steps) != want.steps || p.Shadow != want.shadow || p.EvidenceDir != "/e" || len(p.Rules) != 2 || p.StepTime != 5*time.Minute {
			t.Errorf("%q: %+v", name, p)
		}
	}
}
