package settings

import (
	"errors"
	"fmt"
	"strings"

	"github.com/torchherd/torchherd/torch"
)

// An OutputPath chooses a tensor of a model's output: keys and indices, separated by slashes.
type OutputPath string

// UnmarshalText reads a path.
func (p *OutputPath) UnmarshalText(text []byte) error {
	if strings.ContainsFunc(string(text), func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("invalid output %q: use a key or an index, such as out or 0, or several, such as aux/1", text)
	}
	*p = OutputPath(text)
	return nil
}

// An OutputKind is what a model's output is, and what becomes of it.
type OutputKind string

// The kinds of output.
const (
	Image   OutputKind = "image"
	Mask    OutputKind = "mask"    // gray
	Classes OutputKind = "classes" // class numbers, gray or in colours
	Depth   OutputKind = "depth"   // gray, scaled by the image's least and greatest values
	Alpha   OutputKind = "alpha"   // a mask that becomes the alpha of the image as it was sent
	Chroma  OutputKind = "chroma"  // a and b of Lab, joined with L of the image as it was sent
	Luma    OutputKind = "luma"    // Y of YCbCr, joined with Cb and Cr of the model's input
)

var outputKinds = []OutputKind{Image, Mask, Classes, Depth, Alpha, Chroma, Luma}

// UnmarshalText reads a kind's name.
func (k *OutputKind) UnmarshalText(text []byte) error { return choose(k, text, outputKinds) }

// NeedsSent reports whether the result is made from the image at the size at which it was sent.
func (k OutputKind) NeedsSent() bool { return k == Alpha || k == Chroma }

func (k OutputKind) torch() torch.OutputKind {
	switch k {
	case Mask, Alpha, Luma:
		return torch.OutputMask
	case Classes:
		return torch.OutputClasses
	case Depth:
		return torch.OutputDepth
	case Chroma:
		return torch.OutputChroma
	}
	return torch.OutputImage
}

// channels returns the greatest number of channels for which there can be a mean.
func (k OutputKind) channels() int {
	switch k {
	case Image:
		return 3
	case Chroma:
		return 2
	}
	return 1
}

// format returns the format for responses where none is set: JPEG for what people look at, and PNG for what JPEG can't hold
// (alpha), or whose values it would change (the others).
func (k OutputKind) format() Format {
	switch k {
	case Image, Chroma, Luma:
		return JPEG
	}
	return PNG
}

// An Activation is a function of the output, before anything else.
type Activation string

// The activations.
const (
	NoActivation Activation = "none"
	Sigmoid      Activation = "sigmoid"
	Softmax      Activation = "softmax" // over the channels; the last one of several is the mask
)

var activations = []Activation{NoActivation, Sigmoid, Softmax}

// UnmarshalText reads an activation's name.
func (a *Activation) UnmarshalText(text []byte) error { return choose(a, text, activations) }

func (a Activation) torch() torch.Activation {
	switch a {
	case Sigmoid:
		return torch.Sigmoid
	case Softmax:
		return torch.Softmax
	}
	return torch.NoActivation
}

// A Layout is the order of an output's dimensions.
type Layout string

// The layouts.
const (
	AutoLayout Layout = "auto" // see torch.AutoLayout
	NCHW       Layout = "nchw"
	NHWC       Layout = "nhwc"
)

var layouts = []Layout{AutoLayout, NCHW, NHWC}

// UnmarshalText reads a layout's name.
func (l *Layout) UnmarshalText(text []byte) error { return choose(l, text, layouts) }

func (l Layout) torch() torch.Layout {
	switch l {
	case NCHW:
		return torch.NCHW
	case NHWC:
		return torch.NHWC
	}
	return torch.AutoLayout
}

// A Rounding is how values become bytes.
type Rounding string

// The roundings.
const (
	RoundDown    Rounding = "floor"
	RoundNearest Rounding = "nearest"
)

var roundings = []Rounding{RoundDown, RoundNearest}

// UnmarshalText reads a rounding's name.
func (r *Rounding) UnmarshalText(text []byte) error { return choose(r, text, roundings) }

func (r Rounding) torch() torch.Rounding {
	if r == RoundNearest {
		return torch.RoundNearest
	}
	return torch.RoundDown
}

// A Palette is the colours of classes. The zero value has none: the response is gray.
type Palette struct {
	Colours [][3]uint8 // of the classes from 0
	name    string     // empty: none, or colours of its own
}

const maxColours = 256

const noPalette = "none"

// namedPalettes returns the colours of the palettes with names.
func namedPalettes() map[string][][3]uint8 {
	return map[string][][3]uint8{"pascal": pascal(), "cityscapes": cityscapes()}
}

// pascal returns the colours of the PASCAL VOC challenge: the bits of a class's number, in turns for red, green and blue,
// become those of the colour, the most significant first (VOClabelcolormap.m of the VOC development kit).
func pascal() [][3]uint8 {
	colours := make([][3]uint8, maxColours)
	for class := range colours {
		rest := class
		for bit := 7; bit >= 0; bit-- {
			for c := range 3 {
				colours[class][c] |= uint8(rest>>c&1) << bit
			}
			rest >>= 3
		}
	}
	return colours
}

// cityscapes returns the colours of the 19 classes on which Cityscapes evaluates, in the order of their training numbers
// (labels.py of cityscapesScripts).
func cityscapes() [][3]uint8 {
	return [][3]uint8{
		{128, 64, 128}, {244, 35, 232}, {70, 70, 70}, {102, 102, 156}, {190, 153, 153}, {153, 153, 153}, {250, 170, 30},
		{220, 220, 0}, {107, 142, 35}, {152, 251, 152}, {70, 130, 180}, {220, 20, 60}, {255, 0, 0}, {0, 0, 142}, {0, 0, 70},
		{0, 60, 100}, {0, 80, 100}, {0, 0, 230}, {119, 11, 32},
	}
}

// String returns a palette's name, or its colours in the form "[[0, 0, 0], [255, 0, 0]]".
func (p Palette) String() string {
	if p.name != "" {
		return p.name
	}
	if len(p.Colours) == 0 {
		return noPalette
	}
	texts := make([]string, len(p.Colours))
	for i, c := range p.Colours {
		texts[i] = fmt.Sprintf("[%d, %d, %d]", c[0], c[1], c[2])
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// UnmarshalYAML reads none, the name of a palette, or a list of colours.
func (p *Palette) UnmarshalYAML(read func(any) error) error {
	problem := errors.New("invalid palette: use none, pascal, cityscapes, or a list of up to 256 colours, such as [[0, 0, 0], [255, 0, 0]]")
	var numbers [][]int
	if read(&numbers) == nil && len(numbers) > 0 {
		colours := make([][3]uint8, len(numbers))
		for i, each := range numbers {
			if len(each) != 3 || len(numbers) > maxColours {
				return problem
			}
			for c, v := range each {
				if v < 0 || v > 255 {
					return problem
				}
				colours[i][c] = uint8(v)
			}
		}
		*p = Palette{Colours: colours}
		return nil
	}
	var name string
	if read(&name) != nil {
		return problem
	}
	colours, known := namedPalettes()[name]
	switch {
	case known:
		*p = Palette{colours, name}
	case name == noPalette:
		*p = Palette{}
	default:
		return problem
	}
	return nil
}
