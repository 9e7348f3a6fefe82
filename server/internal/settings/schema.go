package settings

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"
)

const schemaURL = "https://raw.githubusercontent.com/torchherd/torchherd/main/docs/model.schema.json"

// schemaHead precedes the properties. The patterns of $defs repeat what the types' unmarshalers accept.
const schemaHead = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "$id": "` + schemaURL + `",
  "title": "model.yaml of torchherd",
  "description": "Settings of a model. All are optional.",
  "type": "object",
  "additionalProperties": false,
  "$defs": {
    "size": {"type": "string", "pattern": "^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"},
    "input": ` + inputDefinition + `,
    "range": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2, "uniqueItems": true},
    "device": {"type": "string", "pattern": "^` + devicePattern + `$"},
    "devices": {"type": "string", "pattern": "^` + devicePattern + `(,` + devicePattern + `)*$"}
  },
  "properties": {
`

const devicePattern = `(cpu|cuda(:([0-9]{1,2}|1[01][0-9]|12[0-7]))?)`

// Schema returns the JSON Schema of model.yaml.
func Schema() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(schemaHead)
	for i, setting := range table {
		members, err := setting.schemaMembers()
		if err != nil {
			return nil, fmt.Errorf("settings: schema of %s: %w", setting.Key, err)
		}
		if i > 0 {
			b.WriteString(",\n")
		}
		description, err := json.Marshal(setting.PlainHelp())
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "    %q: {\n      \"description\": %s,\n      %s\n    }", setting.Key, description, members)
	}
	b.WriteString("\n  }\n}\n")
	return b.Bytes(), nil
}

// schemaMembers returns the members that say which values are valid, and the default.
func (s *Setting) schemaMembers() (string, error) {
	members := s.schema
	switch s.field(&Settings{}).(type) {
	case *int:
		members = fmt.Sprintf(`"type": "integer", "minimum": %d, "maximum": %d`, s.least, s.most)
	case *bool:
		members = `"type": "boolean"`
	}
	if s.words != nil {
		enum, err := json.Marshal(s.words)
		if err != nil {
			return "", err
		}
		members = fmt.Sprintf(`"enum": %s`, enum)
	}
	text := s.Default()
	if text == "" {
		return members, nil
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return "", err
	}
	encoded, err := json.Marshal(value)
	return fmt.Sprintf(`%s, "default": %s`, members, encoded), err
}
