package tune

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Settings are the flags of `torchherd serve` that are tuned.
type Settings struct {
	MaxBatchSize int
	Threads      int // of a forward; 0: the server chooses
	Instances    int
	MaxWait      time.Duration
	Precision    string
	CUDAGraphs   bool
}

// fp32 is the precision that others are compared with.
const fp32 = "fp32"

// Defaults are serve's own.
func Defaults() Settings {
	return Settings{MaxBatchSize: 2, Instances: 1, MaxWait: time.Second, Precision: fp32}
}

// defaultQueue is serve's --max-queue-size.
const defaultQueue = 3

// QueueSize is the --max-queue-size that a number of clients needs: room for a picture of each, so that none is
// refused, and serve's default at least.
func QueueSize(clients int) int { return max(clients, defaultQueue) }

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

// all is the settings as arguments of serve, none left out: what the environment has doesn't count then.
func (s Settings) all() []string {
	flags := s.flags()
	arguments := make([]string, 0, len(flags))
	for _, f := range flags {
		arguments = append(arguments, f.name+"="+f.value)
	}
	return arguments
}

// changed is the flags that differ from serve's defaults.
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

// Arguments is the flags that differ from serve's defaults, as one types them.
func (s Settings) Arguments() []string {
	arguments := []string{} // not nil, for JSON's sake
	for _, f := range s.changed() {
		arguments = append(arguments, f.name)
		if f.value != "true" {
			arguments = append(arguments, f.value)
		}
	}
	return arguments
}

// String is the flags that differ from serve's defaults.
func (s Settings) String() string {
	if arguments := s.Arguments(); len(arguments) > 0 {
		return strings.Join(arguments, " ")
	}
	return "defaults"
}

// A Value is a setting as a model.yaml and serve's config file have it.
type Value struct{ Key, Text string }

// Values are all settings, and the queue for a number of clients.
func (s Settings) Values(clients int) []Value {
	return append(s.values(), Value{"max-queue-size", strconv.Itoa(QueueSize(clients))})
}

func (s Settings) values() []Value {
	var values []Value
	for _, f := range s.flags() {
		values = append(values, Value{strings.TrimPrefix(f.name, "--"), f.value})
	}
	return values
}

// MarshalJSON writes all settings by their keys.
func (s Settings) MarshalJSON() ([]byte, error) {
	values := map[string]string{}
	for _, v := range s.values() {
		values[v.Key] = v.Text
	}
	return json.Marshal(values)
}

// simpler says whether a is closer to serve's defaults than b: by fewer flags, else by smaller numbers in them.
func simpler(a, b Settings) bool {
	if x, y := len(a.changed()), len(b.changed()); x != y {
		return x < y
	}
	if a.MaxBatchSize != b.MaxBatchSize {
		return a.MaxBatchSize < b.MaxBatchSize
	}
	return a.Instances < b.Instances
}
