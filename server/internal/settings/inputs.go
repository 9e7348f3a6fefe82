package settings

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/torchherd/torchherd/torch"
)

// Inputs are the parameters of a model's forward, in their order. None stand for the image alone.
type Inputs []Input

// An Input is a parameter of a model's forward.
type Input struct {
	Name string // of the part of a form, and of the parameter of a query; of a constant only for the reader
	Kind torch.InputKind

	// These are of a further image.
	Size         Size // zero: that of the image
	Channels     torch.Channels
	ResizeFilter torch.Filter
	Range        Range
	Mean, Std    []float64 // as in Settings
	Threshold    float64

	// Default is the number, or the value 0 to 255 of all pixels of the image, for a request without the part.
	Default  float64
	Required bool // there is no default

	// These are of a number.
	Min, Max float64

	// These are of a number and of a constant.
	Integer bool
	Tensor  bool    // of Shape
	Shape   []int64 // torch.PerItem: the number of items
	Numbers []float64
}

// imageName is the name of the image among the inputs, and of its part of a form.
const imageName = "image"

// reservedNames are names that a request gives another meaning.
var reservedNames = []string{imageName, "file", "format", "quality", "size"}

// Parts returns the inputs that requests may send beside the image, in their order.
func (in Inputs) Parts() []Input {
	var parts []Input
	for _, input := range in {
		if input.Kind == torch.InputImage || input.Kind == torch.InputNumber {
			parts = append(parts, input)
		}
	}
	return parts
}

// Tensors returns the inputs in the form that package torch takes.
func (in Inputs) Tensors() []torch.Input {
	var inputs []torch.Input
	for _, each := range in {
		inputs = append(inputs, torch.Input{
			Kind: each.Kind, Threshold: each.Threshold, Tensor: each.Tensor, Shape: each.Shape, Integer: each.Integer, Numbers: each.Numbers,
			Values: torch.Values{Channels: each.Channels, Input: torch.Range(each.Range), Mean: perChannel(each.Mean, 0), Std: perChannel(each.Std, 1)},
		})
	}
	return inputs
}

// String returns the inputs in the form that UnmarshalYAML reads.
func (in Inputs) String() string {
	if len(in) == 0 {
		return "[" + imageName + "]"
	}
	return "[" + strings.Join(words(in...), ", ") + "]"
}

// String returns the input in the form that UnmarshalYAML reads.
func (i Input) String() string {
	var members []string
	member := func(key string, value any) { members = append(members, fmt.Sprintf("%s: %v", key, value)) }
	switch i.Kind {
	case torch.InputBatch:
		return imageName
	case torch.InputImage:
		if !i.Size.Keep() {
			member("size", i.Size)
		}
		member("channels", i.Channels)
		member("resize-filter", i.ResizeFilter)
		member("input-range", i.Range)
		for key, values := range map[string][]float64{"mean": i.Mean, "std": i.Std} {
			if len(values) > 0 {
				member(key, numbersText(values))
			}
		}
		if i.Threshold > 0 {
			member("threshold", i.Threshold)
		}
		if !i.Required {
			member("default", i.Default)
		}
		slices.Sort(members)
	case torch.InputNumber:
		key, value := "number", any(numberText(i.Default, i.Integer))
		if i.Integer {
			key = "integer"
		}
		if i.Required {
			value = required
		}
		member(key, value)
		for key, limit := range map[string]float64{"min": i.Min, "max": i.Max} {
			if !math.IsInf(limit, 0) {
				member(key, limit)
			}
		}
		slices.Sort(members[1:])
	case torch.InputNone:
		member("constant", "null")
	case torch.InputConstant:
		texts := make([]string, len(i.Numbers))
		for k, number := range i.Numbers {
			texts[k] = numberText(number, i.Integer)
		}
		text := "[" + strings.Join(texts, ", ") + "]"
		if !i.Tensor {
			text = texts[0]
		}
		member("constant", text)
	}
	if i.Tensor {
		sizes := make([]string, len(i.Shape))
		for d, size := range i.Shape {
			if sizes[d] = strconv.FormatInt(size, 10); size == torch.PerItem {
				sizes[d] = perItem
			}
		}
		member("shape", "["+strings.Join(sizes, ", ")+"]")
	}
	return "{" + i.Name + ": {" + strings.Join(members, ", ") + "}}"
}

func numbersText(numbers []float64) string {
	return "[" + strings.Join(words(numbers...), ", ") + "]"
}

// numberText writes a number so that YAML reads it as what it is: an integer, or with a point.
func numberText(number float64, integer bool) string {
	text := strconv.FormatFloat(number, 'f', -1, 64)
	if !integer && !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

const (
	required = "required" // the value of a number without a default
	perItem  = "N"        // in a shape
)

var inputName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// UnmarshalYAML reads a list of inputs.
func (in *Inputs) UnmarshalYAML(read func(any) error) error {
	var items []any
	if err := read(&items); err != nil {
		return err
	}
	*in = nil
	for _, item := range items {
		if item == imageName {
			*in = append(*in, Input{Name: imageName, Kind: torch.InputBatch})
			continue
		}
		pair, ok := item.(map[string]any)
		if !ok || len(pair) != 1 {
			return fmt.Errorf("invalid input %v: use %s, or a name with what it is, such as mask: {channels: gray} or strength: {number: 1.0}", item, imageName)
		}
		for name, members := range pair {
			text, err := yaml.Marshal(members)
			if err != nil {
				return err
			}
			input, err := readInput(name, text)
			if err != nil {
				return fmt.Errorf("input %s: %w", name, err)
			}
			*in = append(*in, input)
		}
	}
	if err := in.validate(); err != nil {
		return err
	}
	if len(*in) == 1 {
		*in = nil // the image alone
	}
	return nil
}

func (in Inputs) validate() error {
	names := map[string]bool{}
	images := 0
	for _, input := range in {
		if input.Kind == torch.InputBatch {
			images++
			continue
		}
		switch {
		case !inputName.MatchString(input.Name):
			return fmt.Errorf("invalid name %q: use letters, digits, _ and -, at most 64", input.Name)
		case slices.Contains(reservedNames, input.Name):
			return fmt.Errorf("the name %s is taken: requests have another meaning for it", input.Name)
		case names[input.Name]:
			return fmt.Errorf("duplicate name %s", input.Name)
		}
		names[input.Name] = true
	}
	if images != 1 {
		return fmt.Errorf("%s must be in the list once, not %d times", imageName, images)
	}
	return nil
}

// inputKeys are the members of an input, by the key that says its kind; empty: an image.
var inputKeys = map[string][]string{
	"":         {"size", "channels", "resize-filter", "input-range", "mean", "std", "threshold", "default"},
	"number":   {"number", "min", "max", "shape"},
	"integer":  {"integer", "min", "max", "shape"},
	"constant": {"constant", "shape"},
}

func readInput(name string, text []byte) (Input, error) {
	var members map[string]any
	if err := yaml.Unmarshal(text, &members); err != nil {
		return Input{}, errors.New("its value must be a map, such as {channels: gray}")
	}
	kind := ""
	for _, each := range []string{"number", "integer", "constant"} {
		if _, has := members[each]; has {
			kind = each
		}
	}
	for key := range members {
		if !slices.Contains(inputKeys[kind], key) {
			return Input{}, UnknownKey(key, inputKeys[kind])
		}
	}
	input := Input{Name: name}
	switch kind {
	case "":
		return readImageInput(input, text)
	case "constant":
		return readConstant(input, members)
	}
	return readNumber(input, members, kind == "integer")
}

func readImageInput(input Input, text []byte) (Input, error) {
	given := struct {
		Size         Size      `yaml:"size"`
		Channels     string    `yaml:"channels"`
		ResizeFilter string    `yaml:"resize-filter"`
		Range        Range     `yaml:"input-range"`
		Mean         []float64 `yaml:"mean"`
		Std          []float64 `yaml:"std"`
		Threshold    float64   `yaml:"threshold"`
		Default      *float64  `yaml:"default"`
	}{Channels: torch.RGB.String(), ResizeFilter: torch.Bilinear.String(), Range: Range{0, 1}}
	if err := yaml.Unmarshal(text, &given); err != nil {
		return input, fmt.Errorf("%s", yaml.FormatError(err, false, false))
	}
	input.Kind, input.Size, input.Range, input.Mean, input.Std, input.Threshold = torch.InputImage, given.Size, given.Range, given.Mean, given.Std, given.Threshold
	var err error
	if input.Channels, err = torch.NewChannels(given.Channels); err != nil {
		return input, err
	}
	if err := input.ResizeFilter.UnmarshalText([]byte(given.ResizeFilter)); err != nil {
		return input, err
	}
	if input.Required = given.Default == nil; !input.Required {
		input.Default = *given.Default
	}
	switch {
	case input.Threshold < 0 || input.Threshold > 1:
		return input, fmt.Errorf("threshold is %v and must be 0 to 1", input.Threshold)
	case input.Default != math.Trunc(input.Default) || input.Default < 0 || input.Default > 255:
		return input, fmt.Errorf("default is %v and must be a whole number from 0 to 255", input.Default)
	}
	return input, validateInput(input.Channels, input.Mean, input.Std)
}

func readNumber(input Input, members map[string]any, integer bool) (Input, error) {
	input.Kind, input.Integer = torch.InputNumber, integer
	input.Min, input.Max = math.Inf(-1), math.Inf(1)
	key := "number"
	if integer {
		key = "integer"
	}
	if input.Required = members[key] == required; input.Required {
		delete(members, key)
	}
	for key, to := range map[string]*float64{key: &input.Default, "min": &input.Min, "max": &input.Max} {
		value, has := members[key]
		if !has {
			continue
		}
		number, _, ok := asNumber(value)
		if !ok {
			return input, fmt.Errorf("%s is %v and must be a number", key, value)
		}
		*to = number
	}
	if err := input.readShape(members); err != nil {
		return input, err
	}
	for _, size := range input.Shape {
		if size != 1 && size != torch.PerItem {
			return input, fmt.Errorf("the shape of a number is [], [N], [N, 1] or the like, not %v", members["shape"])
		}
	}
	if !input.Required {
		if err := input.Check(input.Default); err != nil {
			return input, fmt.Errorf("its default: %w", err)
		}
	}
	return input, nil
}

// Check returns an error for a value that a number may not have.
func (i *Input) Check(value float64) error {
	switch {
	case i.Integer && value != math.Trunc(value):
		return fmt.Errorf("%s is %v and must be a whole number", i.Name, value)
	case math.IsNaN(value) || math.IsInf(value, 0):
		return fmt.Errorf("%s is %v and must be finite", i.Name, value)
	case value < i.Min:
		return fmt.Errorf("%s is %v and must be at least %v", i.Name, value, i.Min)
	case value > i.Max:
		return fmt.Errorf("%s is %v and must be at most %v", i.Name, value, i.Max)
	}
	return nil
}

func readConstant(input Input, members map[string]any) (Input, error) {
	value := members["constant"]
	if value == nil {
		input.Kind = torch.InputNone
		return input, nil
	}
	input.Kind, input.Integer = torch.InputConstant, true
	shape, err := input.flatten(value)
	if err != nil {
		return input, err
	}
	_, input.Tensor = value.([]any)
	input.Shape = shape
	if _, has := members["shape"]; !has {
		return input, nil
	}
	if err := input.readShape(members); err != nil {
		return input, err
	}
	elements := int64(1)
	for _, size := range input.Shape {
		if size != torch.PerItem {
			elements *= size
		}
		if elements > 1<<24 {
			return input, fmt.Errorf("the shape %v has more than %d elements", members["shape"], 1<<24)
		}
	}
	switch int64(len(input.Numbers)) {
	case elements:
	case 1:
		input.Numbers = slices.Repeat(input.Numbers, int(elements))
	default:
		return input, fmt.Errorf("the shape %v has %d elements, and there are %d numbers", members["shape"], elements, len(input.Numbers))
	}
	return input, nil
}

// flatten appends the numbers of a value to the input's and returns its shape.
func (i *Input) flatten(value any) ([]int64, error) {
	items, isList := value.([]any)
	if !isList {
		number, integer, ok := asNumber(value)
		if !ok {
			return nil, fmt.Errorf("constant has %v and must be a number, true, false, null, or lists of numbers", value)
		}
		i.Integer = i.Integer && integer
		i.Numbers = append(i.Numbers, number)
		return nil, nil
	}
	var inner []int64
	for at, item := range items {
		shape, err := i.flatten(item)
		if err != nil {
			return nil, err
		}
		if at > 0 && !slices.Equal(shape, inner) {
			return nil, errors.New("constant has lists of different lengths")
		}
		inner = shape
	}
	if len(items) == 0 {
		return nil, errors.New("constant has an empty list")
	}
	return append([]int64{int64(len(items))}, inner...), nil
}

// readShape reads a shape, if there is one.
func (i *Input) readShape(members map[string]any) error {
	value, has := members["shape"]
	if !has {
		return nil
	}
	items, isList := value.([]any)
	i.Tensor, i.Shape = true, []int64{}
	invalid := fmt.Errorf("invalid shape %v: use a list of at most 8 sizes, in which N stands for the number of images, such as [N, 1]", value)
	if !isList || len(items) > 8 {
		return invalid
	}
	for _, item := range items {
		number, integer, ok := asNumber(item)
		switch {
		case item == perItem && !slices.Contains(i.Shape, torch.PerItem):
			i.Shape = append(i.Shape, torch.PerItem)
		case ok && integer && number >= 1 && number <= 1<<24:
			i.Shape = append(i.Shape, int64(number))
		default:
			return invalid
		}
	}
	return nil
}

// asNumber returns a YAML value as a number, and whether it is written as an integer.
func asNumber(value any) (number float64, integer, ok bool) {
	switch v := value.(type) {
	case bool:
		if v {
			return 1, true, true
		}
		return 0, true, true
	case int64:
		return float64(v), true, true
	case uint64:
		return float64(v), true, true
	case float64:
		return v, false, true
	}
	return 0, false, false
}

// inputsSchema is the JSON Schema of Inputs.
const inputsSchema = `"type": "array", "minItems": 1, "items": {"anyOf": [{"const": "image"}, {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": {"$ref": "#/$defs/input"}}]}`

// inputDefinition is the JSON Schema of an Input.
const inputDefinition = `{
      "type": "object",
      "additionalProperties": false,
      "properties": {
        "size": {"anyOf": [{"const": "keep"}, {"$ref": "#/$defs/size"}]},
        "channels": {"enum": ["rgb", "bgr", "gray"]},
        "resize-filter": {"enum": ["bilinear", "nearest", "box", "hamming", "bicubic", "lanczos"]},
        "input-range": {"$ref": "#/$defs/range"},
        "mean": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
        "std": {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "maxItems": 3},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1},
        "default": {"type": "integer", "minimum": 0, "maximum": 255},
        "number": {"anyOf": [{"const": "required"}, {"type": "number"}]},
        "integer": {"anyOf": [{"const": "required"}, {"type": "integer"}]},
        "min": {"type": "number"},
        "max": {"type": "number"},
        "constant": {"type": ["number", "boolean", "array", "null"]},
        "shape": {"type": "array", "items": {"anyOf": [{"const": "N"}, {"type": "integer", "minimum": 1}]}, "maxItems": 8}
      }
    }`
