package torch

// #include "torchherd.h"
import "C"

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// A DType is the type of a tensor's elements.
type DType int32

// The element types, numbered as thd_dtype in torchherd.h.
const (
	Uint8   DType = C.THD_UINT8
	Int32   DType = C.THD_INT32
	Int64   DType = C.THD_INT64
	Float16 DType = C.THD_FLOAT16
	Float32 DType = C.THD_FLOAT32
	Float64 DType = C.THD_FLOAT64
)

const maxDims = C.THD_MAX_DIMS

// Size returns the number of bytes of one element, or 0 for a DType that doesn't exist.
func (d DType) Size() int {
	switch d {
	case Uint8:
		return 1
	case Float16:
		return 2
	case Int32, Float32:
		return 4
	case Int64, Float64:
		return 8
	}
	return 0
}

// String returns the dtype's name in PyTorch.
func (d DType) String() string {
	names := map[DType]string{
		Uint8: "uint8", Int32: "int32", Int64: "int64", Float16: "float16", Float32: "float32", Float64: "float64",
	}
	if name, ok := names[d]; ok {
		return name
	}
	return fmt.Sprintf("DType(%d)", int32(d))
}

// A Tensor is a dense tensor in Go memory, contiguous in C order.
type Tensor struct {
	DType DType
	Shape []int64 // Forward supports 1 to 8 dimensions
	Data  []byte  // product(Shape) elements in the machine's byte order
}

// FromFloat32 returns a float32 tensor with a copy of values. Errors: ErrShape if the shape has another number of
// elements.
func FromFloat32(values []float32, shape ...int64) (*Tensor, error) {
	data := make([]byte, 0, 4*len(values))
	for _, value := range values {
		data = binary.NativeEndian.AppendUint32(data, math.Float32bits(value))
	}
	t := &Tensor{DType: Float32, Shape: slices.Clone(shape), Data: data}
	return t, t.check("from float32")
}

// Float32s returns a copy of a float32 tensor's elements. Errors: ErrDType for another dtype.
func (t *Tensor) Float32s() ([]float32, error) {
	if err := t.check("float32s"); err != nil {
		return nil, err
	}
	if t.DType != Float32 {
		return nil, &Error{Op: "float32s", Kind: ErrDType, Detail: "the tensor is " + t.DType.String()}
	}
	values := make([]float32, len(t.Data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.NativeEndian.Uint32(t.Data[4*i:]))
	}
	return values, nil
}

// check returns an error if dtype, shape and data don't match.
func (t *Tensor) check(op string) error {
	size := int64(t.DType.Size())
	if size == 0 {
		return &Error{Op: op, Kind: ErrDType, Detail: "unknown dtype: " + t.DType.String()}
	}
	if len(t.Shape) > maxDims {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("%d dimensions exceed the limit of %d", len(t.Shape), maxDims)}
	}
	bytes := size
	for _, n := range t.Shape {
		if n < 0 || (n > 0 && bytes > math.MaxInt64/n) {
			return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("shape %v is negative or too large", t.Shape)}
		}
		bytes *= n
	}
	if bytes != int64(len(t.Data)) {
		return &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("%s %v needs %d bytes of data, got %d", t.DType, t.Shape, bytes, len(t.Data))}
	}
	return nil
}

// Stack joins tensors of one shape and dtype along a new first dimension, as torch.stack(items, dim=0) does: item i of
// the result is items[i]. Errors: ErrShape for no items or different shapes; ErrDType for different dtypes.
func Stack(items []*Tensor) (*Tensor, error) {
	const op = "stack"
	if len(items) == 0 {
		return nil, &Error{Op: op, Kind: ErrShape, Detail: "no items to stack"}
	}
	first := items[0]
	stacked := &Tensor{
		DType: first.DType,
		Shape: append([]int64{int64(len(items))}, first.Shape...),
		Data:  make([]byte, 0, len(items)*len(first.Data)),
	}
	for i, item := range items {
		if err := item.check(op); err != nil {
			return nil, err
		}
		if item.DType != first.DType {
			return nil, &Error{Op: op, Kind: ErrDType, Detail: fmt.Sprintf("item %d is %s and item 0 is %s", i, item.DType, first.DType)}
		}
		if !slices.Equal(item.Shape, first.Shape) {
			return nil, &Error{Op: op, Kind: ErrShape, Detail: fmt.Sprintf("item %d has shape %v and item 0 has %v", i, item.Shape, first.Shape)}
		}
		stacked.Data = append(stacked.Data, item.Data...)
	}
	return stacked, nil
}
