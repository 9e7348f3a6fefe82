package torch

// #include "torchherd.h"
import "C"

import (
	"fmt"
	"runtime"
	"slices"
)

// An InputKind is what a parameter of a model's forward gets.
type InputKind int32

const (
	// InputBatch is the images of the batch.
	InputBatch InputKind = C.THD_INPUT_BATCH
	// InputImage is a further image for each item, such as a mask.
	InputImage InputKind = C.THD_INPUT_IMAGE
	// InputNumber is a number for each item.
	InputNumber InputKind = C.THD_INPUT_NUMBER
	// InputConstant is the same in every batch.
	InputConstant InputKind = C.THD_INPUT_CONSTANT
	// InputNone is None, for a parameter that is Optional.
	InputNone InputKind = C.THD_INPUT_NONE
)

// PerItem stands for the number of items in an Input's shape.
const PerItem = -1

// An Input is a parameter of a model's forward.
type Input struct {
	Kind InputKind
	// Values are how an InputImage becomes a tensor; their Output has no effect.
	Values Values
	// Threshold, if it is above 0, makes the channels of an InputImage 1 from this value on, in 0..1, and else 0, before
	// Values apply.
	Threshold float64
	// Tensor passes an InputNumber or InputConstant as a tensor of Shape, and not as a plain number, which TorchScript gets
	// as the float, int or bool that it declares.
	Tensor bool
	// Shape may have PerItem once: the elements of an InputConstant are then repeated for each item, and an InputNumber has
	// its own value for each. All other sizes of an InputNumber are 1.
	Shape   []int64
	Integer bool // of a tensor: its elements are int64
	// Numbers are the elements of an InputConstant: the product of the sizes other than PerItem, in C order.
	Numbers []float64
}

// Equal reports whether all items of a batch need the same value of an InputNumber.
func (i *Input) Equal() bool { return !slices.Contains(i.Shape, PerItem) }

// Parts are the further inputs of a batch.
type Parts struct {
	Images  []Images    // for each InputImage, in their order: one for each item
	Numbers [][]float64 // for each InputNumber: one for each item
}

// inputsForC sets the options' inputs. C uses memory that the pinner pins.
func inputsForC(inputs []Input, pinner *runtime.Pinner, to *C.thd_load_options) error {
	if len(inputs) == 0 {
		return nil
	}
	array := make([]C.thd_input, len(inputs))
	for i := range inputs {
		input, c := &inputs[i], &array[i]
		c.struct_size = C.sizeof_thd_input
		c.kind = C.thd_input_kind(input.Kind)
		c.threshold = C.float(input.Threshold)
		c.dims = -1
		if input.Integer {
			c.integer = 1
		}
		if input.Kind == InputImage {
			values := valuesForC(input.Values)
			pinner.Pin(&values)
			c.values = &values
		}
		elements := int64(1)
		if input.Tensor {
			if len(input.Shape) > maxDims {
				return &Error{Op: "load", Kind: ErrShape, Detail: fmt.Sprintf("input %d has %d dimensions, which exceed the limit of %d", i, len(input.Shape), maxDims)}
			}
			c.dims = C.int32_t(len(input.Shape))
			for d, size := range input.Shape {
				c.shape[d] = C.int64_t(size)
				if size != PerItem {
					elements *= size
				}
			}
		}
		if input.Kind == InputConstant {
			if int64(len(input.Numbers)) != elements {
				return &Error{Op: "load", Kind: ErrShape, Detail: fmt.Sprintf("input %d has %d numbers instead of %d", i, len(input.Numbers), elements)}
			}
			pinner.Pin(&input.Numbers[0])
			c.numbers = (*C.double)(&input.Numbers[0])
		}
	}
	pinner.Pin(&array[0])
	to.inputs, to.input_count = &array[0], C.int32_t(len(inputs))
	return nil
}

// counts returns how many further images and numbers a model takes for each item.
func counts(inputs []Input) (images, numbers int) {
	for i := range inputs {
		switch inputs[i].Kind {
		case InputImage:
			images++
		case InputNumber:
			numbers++
		}
	}
	return images, numbers
}

// checkParts returns an error unless a batch of count items has the further inputs of this module.
func (m *Module) checkParts(op string, p *Parts, count int) error {
	if p == nil {
		p = &Parts{}
	}
	if len(p.Images) != m.partImages || len(p.Numbers) != m.partNumbers {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("the batch has %d further images and %d numbers for each item, and the model takes %d and %d",
			len(p.Images), len(p.Numbers), m.partImages, m.partNumbers)}
	}
	for i := range p.Images {
		part := &p.Images[i]
		if len(part.Items) != count || part.Height < 1 || part.Width < 1 || part.Channels != 3 {
			return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("further image %d: %d of %dx%d with %d channels; it needs 3 channels, and one for each of %d items",
				i, len(part.Items), part.Width, part.Height, part.Channels, count)}
		}
		for _, item := range part.Items {
			if len(item) != part.size() {
				return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("further image %d has %d bytes instead of %d", i, len(item), part.size())}
			}
		}
	}
	for i, numbers := range p.Numbers {
		if len(numbers) != count {
			return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("number %d has %d values for %d items", i, len(numbers), count)}
		}
	}
	return nil
}

// partsForC converts parts that have been checked. C uses memory that the pinner pins.
func partsForC(p *Parts, pinner *runtime.Pinner) *C.thd_parts {
	if p == nil {
		return nil
	}
	c := &C.thd_parts{struct_size: C.sizeof_thd_parts, image_inputs: C.int32_t(len(p.Images)), number_inputs: C.int32_t(len(p.Numbers))}
	var images []*C.uint8_t
	var sizes []C.int32_t
	for i := range p.Images {
		for _, item := range p.Images[i].Items {
			pinner.Pin(&item[0])
			images = append(images, bytePointer(item))
		}
		sizes = append(sizes, C.int32_t(p.Images[i].Height), C.int32_t(p.Images[i].Width))
	}
	if len(images) > 0 {
		pinner.Pin(&images[0])
		pinner.Pin(&sizes[0])
		c.images, c.sizes = &images[0], &sizes[0]
	}
	if numbers := slices.Concat(p.Numbers...); len(numbers) > 0 {
		pinner.Pin(&numbers[0])
		c.numbers = (*C.double)(&numbers[0])
	}
	return c
}
