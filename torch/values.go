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
)

var channelsNames = map[Channels]string{RGB: "rgb", BGR: "bgr", Gray: "gray"}

// String returns the channels' name: rgb, bgr or gray.
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
	return RGB, &Error{Op: "new channels", Kind: ErrInvalidArgument, Detail: fmt.Sprintf("unknown channels %q; use rgb, bgr or gray", name)}
}

// count returns the number of channels.
func (c Channels) count() int64 {
	if c == Gray {
		return 1
	}
	return 3
}

// A Range maps pixels to a model's values: Low is black, High is full intensity. The zero value is 0..1.
type Range struct{ Low, High float64 }

// Values are the meaning of the values in a model's tensors. The zero value is an RGB input and an output from 0 to 1.
//
// The model's input is (x - Mean[c]) / Std[c], where x is the pixel's value in the range Input and c is the channel of
// the input tensor; Gray uses only the first Mean and Std. The output is in the range Output and is clamped to it.
type Values struct {
	Channels      Channels
	Input, Output Range
	Mean          [3]float64
	Std           [3]float64 // the zero value is all 1
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
	}
	for i := range v.Mean {
		c.mean[i], c.std[i] = C.float(v.Mean[i]), C.float(v.Std[i])
	}
	return c
}
