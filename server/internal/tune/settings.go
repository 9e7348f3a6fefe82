package tune

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// Settings are the flags of `torchherd serve` that are tuned.
type Settings struct {
	MaxBatchSize int
	Threads      int // of one forward; 0: the server chooses
	Instances    int
	MaxWait      time.Duration
	Precision    string
	CUDAGraphs   bool
}

// fp32 is the precision that others are compared with.
const fp32 = "fp32"

// Defaults returns the defaults of serve.
func Defaults() Settings {
	d := settings.Default()
	return Settings{
		MaxBatchSize: d.MaxBatchSize, Threads: d.Threads, Instances: d.Instances, MaxWait: d.MaxWait,
		Precision: d.Precision.String(), CUDAGraphs: d.CUDAGraphs,
	}
}

func defaultQueueSize() int { return settings.Default().MaxQueueSize }

// QueueSize returns the --max-queue-size for a number of clients: room for one image of each, so that none is refused,
// and at least the default of serve.
func QueueSize(clients int) int { return max(clients, defaultQueueSize()) }

type flag struct{ name, value string }

func (s Settings) flags() []flag {
	return []flag{
		{"--max-batch-size", strconv.Itoa(s.MaxBatchSize)},
		{"--instances", strconv.Itoa(s.Instances)},
		{"--threads", strconv.Itoa(s.Threads)},
		{"--precision", s.Precision},
		{"--cuda-graphs", strconv.FormatBool(s.CUDAGraphs)},
		{"--max-wait", s.MaxWait.String()},
	}
}

// all returns every setting as an argument of serve. None is left out, so that environment variables and model files
// can't change the settings that are measured.
func (s Settings) all() []string {
	flags := s.flags()
	arguments := make([]string, 0, len(flags))
	for _, f := range flags {
		arguments = append(arguments, f.name+"="+f.value)
	}
	return arguments
}

// changed returns the flags that differ from the defaults of serve.
func (s Settings) changed() []flag {
	var changed []flag
	defaults := Defaults().flags()
	for i, f := range s.flags() {
		if f != defaults[i] {
			changed = append(changed, f)
		}
	}
	return changed
}

// Arguments returns the flags that differ from the defaults of serve, as a person types them.
func (s Settings) Arguments() []string {
	arguments := []string{} // not nil, which JSON would encode as null
	for _, f := range s.changed() {
		arguments = append(arguments, f.name)
		if f.value != "true" {
			arguments = append(arguments, f.value)
		}
	}
	return arguments
}

// String returns the flags that differ from the defaults of serve, or "defaults".
func (s Settings) String() string {
	if arguments := s.Arguments(); len(arguments) > 0 {
		return strings.Join(arguments, " ")
	}
	return "defaults"
}

// Values returns all settings and the queue size for a number of clients, as model.yaml has them.
func (s Settings) Values(clients int) []settings.Value {
	return append(s.values(), settings.Value{Key: "max-queue-size", Text: strconv.Itoa(QueueSize(clients))})
}

func (s Settings) values() []settings.Value {
	var values []settings.Value
	for _, f := range s.flags() {
		values = append(values, settings.Value{Key: strings.TrimPrefix(f.name, "--"), Text: f.value})
	}
	return values
}

// MarshalJSON encodes the settings as an object of strings with the keys of model.yaml.
func (s Settings) MarshalJSON() ([]byte, error) {
	values := map[string]string{}
	for _, v := range s.values() {
		values[v.Key] = v.Text
	}
	return json.Marshal(values)
}

// simpler reports whether a is closer to the defaults of serve than b: it has fewer flags, or as many with smaller
// numbers.
func simpler(a, b Settings) bool {
	if x, y := len(a.changed()), len(b.changed()); x != y {
		return x < y
	}
	if a.MaxBatchSize != b.MaxBatchSize {
		return a.MaxBatchSize < b.MaxBatchSize
	}
	return a.Instances < b.Instances
}
