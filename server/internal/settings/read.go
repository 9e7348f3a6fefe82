package settings

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Read sets the settings in the text of a model.yaml, a flat map, and leaves the others unchanged. Errors name the line
// and the key; an unknown key is an error. After an error s is undefined.
func (s *Settings) Read(text []byte) error {
	pairs, err := pairs(text)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, pair := range pairs {
		key := pair.Key.String()
		line := pair.Key.GetToken().Position.Line
		at := slices.IndexFunc(table, func(each Setting) bool { return each.Key == key })
		switch {
		case at < 0:
			return fmt.Errorf("line %d: %w", line, UnknownKey(key, Keys()))
		case seen[key]:
			return fmt.Errorf("line %d: duplicate key %s", line, key)
		}
		seen[key] = true
		if err := table[at].read(s, pair.Value); err != nil {
			return fmt.Errorf("line %d: %s: %w", line, key, err)
		}
		s.BatchSizeGiven = s.BatchSizeGiven || key == batchSizeKey
	}
	return nil
}

// read sets the setting to a YAML value.
func (s *Setting) read(to *Settings, value ast.Node) error {
	field := s.field(to)
	err := yaml.NodeToValue(value, field)
	if err == nil {
		return nil
	}
	if s.words != nil {
		return fmt.Errorf("%q is not one of %s", value, strings.Join(s.words, ", "))
	}
	if _, isDuration := field.(*time.Duration); isDuration {
		return fmt.Errorf("invalid duration %q: use a number with a unit, such as 20ms, 1.5s or 0s", value)
	}
	return fmt.Errorf("%s", yaml.FormatError(err, false, false))
}

// pairs returns the keys of a flat map and their values.
func pairs(text []byte) ([]*ast.MappingValueNode, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %s", yaml.FormatError(err, false, true))
	}
	if len(file.Docs) > 1 {
		return nil, fmt.Errorf("%d documents instead of one", len(file.Docs))
	}
	if len(file.Docs) == 0 {
		return nil, nil
	}
	switch body := file.Docs[0].Body.(type) {
	case *ast.MappingNode:
		return body.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{body}, nil
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil, nil
	default:
		return nil, fmt.Errorf("not a map of settings to values, such as size: 256x256")
	}
}

// Keys returns the keys of all settings, sorted.
func Keys() []string {
	keys := make([]string, len(table))
	for i, setting := range table {
		keys[i] = setting.Key
	}
	slices.Sort(keys)
	return keys
}

// UnknownKey returns the error for a key that is not among the known ones. It suggests the most similar key, or lists all.
func UnknownKey(key string, known []string) error {
	plain := strings.ToLower(strings.ReplaceAll(key, "_", "-"))
	best, distance := "", math.MaxInt
	for _, each := range known {
		if d := levenshtein.ComputeDistance(plain, each); d < distance {
			best, distance = each, d
		}
	}
	if distance <= max(2, len(best)/3) {
		return fmt.Errorf("unknown setting %q; did you mean %s?", key, best)
	}
	return fmt.Errorf("unknown setting %q; known are %s", key, strings.Join(known, ", "))
}
