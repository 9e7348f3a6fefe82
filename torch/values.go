package torch

// #include "torchherd.h"
import "C"

import "fmt"

// Channels are those of the tensor that a model gets of a picture, in their order.
type Channels int32

const (
	// RGB is three channels.
	RGB Channels = C.THD_RGB
	// BGR is three channels, blue first; also of an answer with three.
	BGR Channels = C.THD_BGR
	// Gray is one channel, with the values of Pillow's convert("L").
	Gray Channels = C.THD_GRAY
)

var channelsNames = map[Channels]string{RGB: "rgb", BGR: "bgr", Gray: "gray"}

// String is the channels' name: rgb, bgr or gray.
func (c Channels) String() string {
	if name, ok := channelsNames[c]; ok {
		return name
	}
	return fmt.Sprintf("Channels(%d)", int32(c))
}

// NewChannels reads the name of channels. Errors: ErrInvalidArgument.
func NewChannels(name string) (Channels, error) {
	for channels, known := range channelsNames {
		if name == known {
			return channels, nil
		}
	}
	return RGB, &Error{Op: "new channels", Kind: ErrInvalidArgument, Detail: fmt.Sprintf("no channels are called %q; use rgb, bgr or gray", name)}
}

// count is how many there are.
func (c Channels) count() int64 {
	if c == Gray {
		return 1
	}
	return 3
}

// A Range is what black and full light are as a model's values. The zero value is 0..1.
type Range struct{ Low, High float64 }

// Values are what a model wants of its pixels, and what the values of its answers mean. The zero value is RGB from 0 to
// 1, and answers from 0 to 1.
//
// The model gets (x - Mean[c]) / Std[c], where x is the pixel's value in the range Input and c counts the tensor's own
// channels; of Gray only the first Mean and Std matter. Its answers lie in the range Output, and are clamped to it.
type Values struct {
	Channels      Channels
	Input, Output Range
	Mean          [3]float64
	Std           [3]float64 // all 0: 1
}

// valuesForC is the values as C takes them, which checks them too.
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
