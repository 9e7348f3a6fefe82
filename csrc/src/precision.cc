#include "precision.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>

#include "error.h"

namespace thd {

void require_precision(thd_precision precision, c10::Device device) {
  switch (precision) {
    case THD_FP32:
    case THD_BF16:
      return;
    case THD_TF32:
    case THD_FP16:
      require(device.is_cuda(), "precision: tf32 and fp16 are for CUDA devices; the CPU has fp32 and bf16");
      return;
  }
  require(false, "no such precision");
}

PrecisionScope::PrecisionScope(thd_precision precision, c10::Device device)
    : device_(device.type()),
      was_enabled_(at::autocast::is_autocast_enabled(device_)),
      was_(at::autocast::get_autocast_dtype(device_)) {
  const bool narrow = precision == THD_BF16 || precision == THD_FP16;
  at::autocast::set_autocast_enabled(device_, narrow);
  if (narrow) at::autocast::set_autocast_dtype(device_, precision == THD_BF16 ? at::kBFloat16 : at::kHalf);
  if (device.is_cuda()) {
    // TF32 is a setting of the process, and cuDNN's is on by default; fp32 shall mean fp32.
    at::globalContext().setAllowTF32CuDNN(precision == THD_TF32);
    at::globalContext().setAllowTF32CuBLAS(precision == THD_TF32);
  }
}

PrecisionScope::~PrecisionScope() {
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_dtype(device_, was_);
}

}  // namespace thd
