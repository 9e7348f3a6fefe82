package settings

import (
	"bytes"
	"fmt"
	"regexp"
)

// firstLine tells editors where the schema is (yaml-language-server's convention).
const firstLine = "# yaml-language-server: $schema=https://raw.githubusercontent.com/torchherd/torchherd/main/docs/model.schema.json\n"

// A Value is a setting by its key, and its value as YAML has it: a word or a number.
type Value struct{ Key, Text string }

// Edit returns a model.yaml with other values, its comments and its other settings as they are. Of an empty text it makes
// a new one. It returns an error for a text that isn't right before or after, and for one whose settings don't each stand
// on a line.
func Edit(text []byte, values []Value) ([]byte, error) {
	before := Default()
	if err := before.Read(text); err != nil {
		return nil, err
	}
	if len(text) == 0 {
		text = []byte(firstLine)
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(bytes.Clone(text), '\n')
	}
	for _, value := range values {
		// The value ends where a comment begins, which stays.
		line := regexp.MustCompile(`(?m)^(` + regexp.QuoteMeta(value.Key) + `:[ \t]*)[^#\n]*?([ \t]*(?:#.*)?)$`)
		if line.Match(text) {
			text = line.ReplaceAll(text, []byte("${1}"+value.Text+"${2}"))
			continue
		}
		text = fmt.Appendf(bytes.Clone(text), "%s: %s\n", value.Key, value.Text)
	}
	after := Default()
	err := after.Read(text)
	if err == nil {
		err = after.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("with the new values it wouldn't be right: %w", err)
	}
	return text, nil
}
