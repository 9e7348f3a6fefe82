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

// For each channel, in the shape that spreads over NCHW.
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
      require(false, "values: no such order of channels");
  }
  require_range(values.input_low, values.input_high,
                "values: the input's range must be of two different finite numbers");
  require_range(values.output_low, values.output_high,
                "values: the output's range must be of two different finite numbers");
  for (int64_t c = 0; c < channels_of(values.channels); c++) {
    require(std::isfinite(values.mean[c]), "values: each mean must be finite");
    require(std::isfinite(values.std[c]) && values.std[c] > 0, "values: each std must be finite and above 0");
  }
}

Scale::Scale(const thd_values& values, c10::Device device)
    : low_(values.input_low), span_(values.input_high - values.input_low), answer_low_(values.output_low) {
  const int64_t channels = channels_of(values.channels);
  const auto all = [&](const float* numbers, float number) {
    return std::all_of(numbers, numbers + channels, [&](float each) { return each == number; });
  };
  if (!all(values.mean, 0)) mean_ = per_channel(values.mean, channels, device);
  if (!all(values.std, 1)) std_ = per_channel(values.std, channels, device);
  if (values.output_low != 0 || values.output_high != 1) {
    answer_span_ =
        at::full({}, values.output_high - values.output_low, at::TensorOptions(at::kFloat).device(device));
  }
}

void Scale::apply(const at::Tensor& input) const {
  if (span_ != 1) input.mul_(span_);
  if (low_ != 0) input.add_(low_);
  if (mean_.defined()) input.sub_(mean_);
  if (std_.defined()) input.div_(std_);
}

at::Tensor Scale::undo(const at::Tensor& answer) const {
  if (!answer_span_.defined()) return answer;
  return answer.sub(answer_low_).div_(answer_span_);
}

}  // namespace thd
