package settings

import (
	"bytes"
	"fmt"
	"regexp"
)

// firstLine names the schema for editors, in the form that yaml-language-server reads.
const firstLine = "# yaml-language-server: $schema=" + schemaURL + "\n"

// A Value is a setting's key and its value, a scalar in YAML.
type Value struct{ Key, Text string }

// Edit returns the text of a model.yaml with other values. It keeps comments and all other settings. An empty text becomes
// a new file. Edit returns an error if the text is invalid before or after, or if a changed setting has its value on a line
// of its own.
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
		// The value ends before a comment, which stays.
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
		return nil, fmt.Errorf("invalid with the new values: %w", err)
	}
	return text, nil
}
