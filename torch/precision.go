package torch

// #include "torchherd.h"
import "C"

import "fmt"

// A Precision is the number format in which a TorchScript module computes. Its input and output stay float32.
type Precision int32

const (
	// FP32 is float32 throughout; on CUDA without TF32.
	FP32 Precision = C.THD_FP32
	// TF32 is float32 with the factors of products rounded to 10 fraction bits. CUDA only.
	TF32 Precision = C.THD_TF32
	// BF16 computes convolutions and matrix products in bfloat16, by PyTorch's autocast. On CPUs with bfloat16
	// instructions (AVX512-BF16, AMX) it is about twice as fast as FP32; on others it is slower.
	BF16 Precision = C.THD_BF16
	// FP16 computes convolutions and matrix products in float16, by PyTorch's autocast. CUDA only.
	FP16 Precision = C.THD_FP16
	// AsCompiled is the precision in the Info of a package that doesn't state it.
	AsCompiled Precision = -1
)

var precisionNames = map[Precision]string{FP32: "fp32", TF32: "tf32", BF16: "bf16", FP16: "fp16"}

// String returns the precision's name: fp32, tf32, bf16 or fp16.
func (p Precision) String() string {
	if name, ok := precisionNames[p]; ok {
		return name
	}
	if p == AsCompiled {
		return "as compiled"
	}
	return fmt.Sprintf("Precision(%d)", int32(p))
}

// NewPrecision parses a precision's name. Errors: ErrInvalidArgument.
func NewPrecision(name string) (Precision, error) {
	for precision, known := range precisionNames {
		if name == known {
			return precision, nil
		}
	}
	return FP32, &Error{Op: "new precision", Kind: ErrInvalidArgument, Detail: fmt.Sprintf("unknown precision %q; use fp32, tf32, bf16 or fp16", name)}
}
