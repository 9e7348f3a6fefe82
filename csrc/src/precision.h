// The number format in which a program computes.
#ifndef TORCHHERD_SRC_PRECISION_H
#define TORCHHERD_SRC_PRECISION_H

#include <ATen/core/ScalarType.h>
#include <c10/core/Device.h>

#include "torchherd.h"

namespace thd {

// Throws Failure(THD_ERROR_INVALID_ARGUMENT) for a precision that the device doesn't support.
void require_precision(thd_precision precision, c10::Device device);

// Returns by what part of its largest value the output of a program may change when its sums are added in another order.
// docs/decisions/0016-checks-at-load.md derives it.
double rounding_of(thd_precision precision);

// During its lifetime, operators on this thread compute in the precision.
//
// bfloat16 and float16 use LibTorch's autocast, which converts only the inputs of convolutions and matrix products.
// Converting the whole module instead would break modules that convert their own weights to float32.
//
// TF32 is a setting of the whole process, so a module with TF32 and one without must not run at the same time.
class PrecisionScope {
 public:
  PrecisionScope(thd_precision precision, c10::Device device);
  ~PrecisionScope();
  PrecisionScope(const PrecisionScope&) = delete;
  PrecisionScope& operator=(const PrecisionScope&) = delete;

 private:
  c10::DeviceType device_;
  bool previously_enabled_;
  at::ScalarType previous_dtype_;
};

}  // namespace thd

#endif
