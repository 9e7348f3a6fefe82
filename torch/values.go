package torch

// #include "torchherd.h"
import "C"

import "fmt"

// Channels are the channels of a model's input tensor, in their order.
type Channels int32

const (
	// RGB is three channels.
	RGB Channels = C.THD_RGB
	// BGR is three channels, blue first. An output of three channels has this order too.
	BGR Channels = C.THD_BGR
	// Gray is one channel, with the values of Pillow's convert("L").
	Gray Channels = C.THD_GRAY
	// Lightness is one channel, L of CIE Lab divided by 100.
	Lightness Channels = C.THD_LIGHTNESS
)

var channelsNames = map[Channels]string{RGB: "rgb", BGR: "bgr", Gray: "gray", Lightness: "lightness"}

// String returns the channels' name: rgb, bgr, gray or lightness.
func (c Channels) String() string {
	if name, ok := channelsNames[c]; ok {
		return name
	}
	return fmt.Sprintf("Channels(%d)", int32(c))
}

// NewChannels parses the name of channels. Errors: ErrInvalidArgument.
func NewChannels(name string) (Channels, error) {
	for channels, known := range channelsNames {
		if name == known {
			return channels, nil
		}
	}
	return RGB, &Error{Op: "new channels", Kind: ErrInvalidArgument, Detail: fmt.Sprintf("unknown channels %q; use rgb, bgr, gray or lightness", name)}
}

// Count returns the number of channels.
func (c Channels) Count() int64 {
	if c == Gray || c == Lightness {
		return 1
	}
	return 3
}

// A Range maps pixels to a model's values: Low is black, High is full intensity. The zero value is 0..1.
type Range struct{ Low, High float64 }

// An OutputKind is what a model's output is, and which bytes of a pixel Answer.Read returns for it.
type OutputKind int32

// The kinds of outputs. torchherd.h has their exact forms.
const (
	OutputImage   OutputKind = C.THD_IMAGE   // gray, RGB or RGBA: 1, 3 or 4 bytes
	OutputMask    OutputKind = C.THD_MASK    // one byte
	OutputClasses OutputKind = C.THD_CLASSES // one byte, the number of a class
	OutputDepth   OutputKind = C.THD_DEPTH   // one byte, scaled by the image's least and greatest values
	OutputChroma  OutputKind = C.THD_CHROMA  // four bytes: a and b of CIE Lab as little-endian int16, in units of 1/256
)

// An Activation is a function of a model's output, before anything else.
type Activation int32

// The activations. Softmax runs over the channels; an OutputMask may then have several, of which the last is used.
const (
	NoActivation Activation = C.THD_NO_ACTIVATION
	Sigmoid      Activation = C.THD_SIGMOID
	Softmax      Activation = C.THD_SOFTMAX
)

// A Layout is the order of an output's dimensions.
type Layout int32

// The layouts. AutoLayout takes the channels for the second dimension, unless only the last one has a number of channels that
// the kind allows; those of classes it always takes for the second.
const (
	AutoLayout Layout = C.THD_LAYOUT_AUTO
	NCHW       Layout = C.THD_NCHW
	NHWC       Layout = C.THD_NHWC
)

// A Rounding is how values become bytes.
type Rounding int32

// The roundings.
const (
	RoundDown    Rounding = C.THD_ROUND_DOWN    // as torchvision's to_pil_image
	RoundNearest Rounding = C.THD_ROUND_NEAREST // halves up, as torchvision's save_image
)

// Values are the meaning of the values in a model's tensors. The zero value is an RGB input and an output from 0 to 1.
//
// The model's input is (x - Mean[c]) / Std[c], where x is the pixel's value in the range Input and c is the channel of
// the input tensor; one channel uses only the first Mean and Std.
//
// The output is y * OutputStd[c] + OutputMean[c], where y is the output after the Activation. The result is in the range
// Output and is clamped to it, except that of OutputChroma, which is in the units of Lab, and that of OutputClasses, which is
// taken as it is. Bytes (uint8) of an OutputImage or OutputMask are taken as they are, unless there is an Activation.
type Values struct {
	Channels      Channels
	Input, Output Range
	Mean          [3]float64
	Std           [3]float64 // the zero value is all 1

	// Path chooses a tensor of an output that is a dict, a tuple or a list: keys and indices from 0, separated by slashes.
	// Empty: the only one. It applies to Forward as well.
	Path       string
	Kind       OutputKind
	Activation Activation
	Layout     Layout
	Rounding   Rounding
	OutputMean [3]float64
	OutputStd  [3]float64 // the zero value is all 1
}

// valuesForC converts values to C, which checks them.
func valuesForC(v Values) C.thd_values {
	if v.Input == (Range{}) {
		v.Input = Range{0, 1}
	}
	if v.Output == (Range{}) {
		v.Output = Range{0, 1}
	}
	if v.Std == ([3]float64{}) {
		v.Std = [3]float64{1, 1, 1}
	}
	c := C.thd_values{
		struct_size: C.sizeof_thd_values,
		channels:    C.thd_channels(v.Channels),
		input_low:   C.float(v.Input.Low),
		input_high:  C.float(v.Input.High),
		output_low:  C.float(v.Output.Low),
		output_high: C.float(v.Output.High),
		kind:        C.thd_kind(v.Kind),
		activation:  C.thd_activation(v.Activation),
		layout:      C.thd_layout(v.Layout),
		rounding:    C.thd_rounding(v.Rounding),
	}
	for i := range v.Mean {
		c.mean[i], c.std[i] = C.float(v.Mean[i]), C.float(v.Std[i])
		c.output_mean[i], c.output_std[i] = C.float(v.OutputMean[i]), C.float(v.OutputStd[i])
	}
	return c
}
