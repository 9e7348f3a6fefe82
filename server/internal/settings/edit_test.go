package settings

import (
	"strings"
	"testing"
)

func TestEdit(t *testing.T) {
	values := []Value{{"max-batch-size", "8"}, {"max-wait", "5ms"}, {"cuda-graphs", "true"}}
	for _, test := range []struct{ text, want string }{
		{"", firstLine + "max-batch-size: 8\nmax-wait: 5ms\ncuda-graphs: true\n"},
		{"# mine\nmax-batch-size:   2   # was 4\n\nsize: keep", "# mine\nmax-batch-size:   8   # was 4\n\nsize: keep\nmax-wait: 5ms\ncuda-graphs: true\n"},
		{"max-wait: 1s\n# max-batch-size: 3\nmax-batch-size: 3\n", "max-wait: 5ms\n# max-batch-size: 3\nmax-batch-size: 8\ncuda-graphs: true\n"},
	} {
		got, err := Edit([]byte(test.text), values)
		if err != nil || string(got) != test.want {
			t.Errorf("%q became\n%q, %v instead of\n%q", test.text, got, err, test.want)
		}
	}
	for text, want := range map[string]string{
		"{max-batch-size: 2}":  "invalid with the new values",
		"max-bath-size: 2":     "did you mean max-batch-size?",
		"max-batch-size:\n  2": "invalid with the new values",
	} {
		if got, err := Edit([]byte(text), values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
}
