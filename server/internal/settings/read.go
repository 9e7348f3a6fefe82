package settings

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Read changes those settings that a file's text has, a flat map in YAML, and leaves the others as they are. On an error
// s is undefined. Errors name the line and the key; a key that there isn't is one of them.
func (s *Settings) Read(text []byte) error {
	pairs, err := pairs(text)
	if err != nil {
		return err
	}
	fields := fields(s)
	seen := map[string]bool{}
	for _, pair := range pairs {
		key := pair.Key.String()
		at := pair.Key.GetToken().Position.Line
		field, known := fields[key]
		switch {
		case !known:
			return fmt.Errorf("line %d: there is no setting %q%s", at, key, suggestion(key, Keys()))
		case seen[key]:
			return fmt.Errorf("line %d: %s stands there twice", at, key)
		}
		seen[key] = true
		if err := yaml.NodeToValue(pair.Value, field); err != nil {
			return fmt.Errorf("line %d: %s: %s", at, key, explain(field, err))
		}
	}
	return nil
}

// explain is what is wrong with a value, in words for people.
func explain(field any, err error) string {
	if _, ok := field.(*time.Duration); ok {
		return "write a number with a unit, such as 20ms, 1.5s or 0s"
	}
	return yaml.FormatError(err, false, false)
}

// pairs returns the keys of a flat map and their values.
func pairs(text []byte) ([]*ast.MappingValueNode, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %s", yaml.FormatError(err, false, true))
	}
	if len(file.Docs) > 1 {
		return nil, fmt.Errorf("%d documents where one is wanted", len(file.Docs))
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
		return nil, fmt.Errorf("not a map from settings to values, such as size: 256x256")
	}
}

// fields are pointers to the settings, by their names.
func fields(s *Settings) map[string]any {
	fields := map[string]any{}
	value := reflect.ValueOf(s).Elem()
	for i := range value.NumField() {
		fields[value.Type().Field(i).Tag.Get("yaml")] = value.Field(i).Addr().Interface()
	}
	return fields
}

// Keys are the names of all settings.
func Keys() []string {
	var keys []string
	for key := range fields(&Settings{}) {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// suggestion is what follows an unknown key: the known one that was most likely meant, or all of them.
func suggestion(key string, known []string) string {
	plain := strings.ToLower(strings.ReplaceAll(key, "_", "-"))
	best, distance := "", math.MaxInt
	for _, each := range known {
		if d := levenshtein.ComputeDistance(plain, each); d < distance {
			best, distance = each, d
		}
	}
	if distance <= max(2, len(best)/3) {
		return fmt.Sprintf("; is %s meant?", best)
	}
	return "; there are: " + strings.Join(known, ", ")
}
