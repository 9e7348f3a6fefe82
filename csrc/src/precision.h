// In which number format a program computes.
#ifndef TORCHHERD_SRC_PRECISION_H
#define TORCHHERD_SRC_PRECISION_H

#include <ATen/core/ScalarType.h>
#include <c10/core/Device.h>

#include "torchherd.h"

namespace thd {

// Throws Failure(THD_ERROR_INVALID_ARGUMENT) for a precision that the device doesn't have.
void require_precision(thd_precision precision, c10::Device device);

// As long as it lives, operators on this thread compute in the precision: for bfloat16 and float16 by LibTorch's
// autocast, which narrows what convolutions and matrix products take and leaves the rest as it is. So any module
// runs, also one that widens its own weights, which a module converted to bfloat16 as a whole does not. Whether products
// are TF32's holds for the whole process: of modules with TF32 and without, not two may run at the same time.
class PrecisionScope {
 public:
  PrecisionScope(thd_precision precision, c10::Device device);
  ~PrecisionScope();
  PrecisionScope(const PrecisionScope&) = delete;
  PrecisionScope& operator=(const PrecisionScope&) = delete;

 private:
  c10::DeviceType device_;
  bool was_enabled_;
  at::ScalarType was_;
};

}  // namespace thd

#endif
