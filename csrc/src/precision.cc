#include "precision.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <torch/version.h>

#include <mutex>
#include <optional>
#include <string>

#include "error.h"

namespace thd {
namespace {

// Sets whether CUDA uses TF32, for the whole process. cuDNN enables it by default, so fp32 has to disable it. The older
// setters, with allow_tf32 in their names, write a deprecation warning to stderr.
void set_tf32(bool allowed) {
  static std::mutex mutex;
  static std::optional<bool> current;
  const std::scoped_lock lock(mutex);
  if (current == allowed) return;
  current = allowed;
  at::Context& context = at::globalContext();
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 10
  const std::string format = allowed ? "tf32" : "ieee";
  context.setFloat32Precision("cuda", "conv", format);
  context.setFloat32Precision("cuda", "matmul", format);
#else
  const auto format = allowed ? at::Float32Precision::TF32 : at::Float32Precision::IEEE;
  context.setFloat32Precision(at::Float32Backend::CUDA, at::Float32Op::CONV, format);
  context.setFloat32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL, format);
#endif
}

}  // namespace

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
  require(false, "unknown precision");
}

double rounding_of(thd_precision precision) {
  switch (precision) {
    case THD_FP32:
      return 1.0 / 255;
    case THD_TF32:
    case THD_FP16:
      return 3.0 / 255;
    case THD_BF16:
      break;
  }
  return 17.0 / 255;
}

PrecisionScope::PrecisionScope(thd_precision precision, c10::Device device)
    : device_(device.type()),
      previously_enabled_(at::autocast::is_autocast_enabled(device_)),
      previous_dtype_(at::autocast::get_autocast_dtype(device_)) {
  const bool narrow = precision == THD_BF16 || precision == THD_FP16;
  at::autocast::set_autocast_enabled(device_, narrow);
  if (narrow) at::autocast::set_autocast_dtype(device_, precision == THD_BF16 ? at::kBFloat16 : at::kHalf);
  if (device.is_cuda()) set_tf32(precision == THD_TF32);
}

PrecisionScope::~PrecisionScope() {
  at::autocast::set_autocast_enabled(device_, previously_enabled_);
  at::autocast::set_autocast_dtype(device_, previous_dtype_);
  // The cache holds converted copies of trainable weights, which would outlive their module.
  at::autocast::clear_cache();
}

}  // namespace thd
