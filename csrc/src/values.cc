#include "values.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "error.h"

namespace thd {
namespace {

void require_range(float low, float high, const char* rule) {
  require(std::isfinite(low) && std::isfinite(high - low) && low != high, rule);
}

// Returns one number per channel, in a shape that broadcasts over NCHW.
at::Tensor per_channel(const float* numbers, int64_t count, c10::Device device) {
  return at::tensor(at::ArrayRef<float>(numbers, count)).to(device).reshape({1, count, 1, 1});
}

}  // namespace

void require_values(const thd_values& values) {
  switch (values.channels) {
    case THD_RGB:
    case THD_BGR:
    case THD_GRAY:
      break;
    default:
      require(false, "values: unknown channels");
  }
  require_range(values.input_low, values.input_high,
                "values: input_low and input_high must be finite and different");
  require_range(values.output_low, values.output_high,
                "values: output_low and output_high must be finite and different");
  for (int64_t c = 0; c < channels_of(values.channels); c++) {
    require(std::isfinite(values.mean[c]), "values: each mean must be finite");
    require(std::isfinite(values.std[c]) && values.std[c] > 0, "values: each std must be finite and positive");
  }
}

Normalization::Normalization(const thd_values& values, c10::Device device)
    : input_low_(values.input_low),
      input_span_(values.input_high - values.input_low),
      output_low_(values.output_low) {
  const int64_t channels = channels_of(values.channels);
  const auto all = [&](const float* numbers, float number) {
    return std::all_of(numbers, numbers + channels, [&](float each) { return each == number; });
  };
  if (!all(values.mean, 0)) mean_ = per_channel(values.mean, channels, device);
  if (!all(values.std, 1)) std_ = per_channel(values.std, channels, device);
  if (values.output_low != 0 || values.output_high != 1) {
    output_span_ =
        at::full({}, values.output_high - values.output_low, at::TensorOptions(at::kFloat).device(device));
  }
}

void Normalization::apply(const at::Tensor& input) const {
  if (input_span_ != 1) input.mul_(input_span_);
  if (input_low_ != 0) input.add_(input_low_);
  if (mean_.defined()) input.sub_(mean_);
  if (std_.defined()) input.div_(std_);
}

at::Tensor Normalization::undo(const at::Tensor& output) const {
  if (!output_span_.defined()) return output;
  return output.sub(output_low_).div_(output_span_);
}

}  // namespace thd
