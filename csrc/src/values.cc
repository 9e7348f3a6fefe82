#include "values.h"

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

}  // namespace

at::Tensor per_channel(const float* numbers, int64_t count, c10::Device device) {
  return at::tensor(at::ArrayRef<float>(numbers, count)).to(device).reshape({1, count, 1, 1});
}

thd_values checked_values(thd_values values) {
  require(values.channels >= THD_RGB && values.channels <= THD_LIGHTNESS, "values: unknown channels");
  require(values.kind >= THD_IMAGE && values.kind <= THD_CHROMA, "values: unknown kind");
  require(values.activation >= THD_NO_ACTIVATION && values.activation <= THD_SOFTMAX,
          "values: unknown activation");
  require(values.layout >= THD_LAYOUT_AUTO && values.layout <= THD_NHWC, "values: unknown layout");
  require(values.rounding >= THD_ROUND_DOWN && values.rounding <= THD_ROUND_NEAREST,
          "values: unknown rounding");
  require_range(values.input_low, values.input_high,
                "values: input_low and input_high must be finite and different");
  require_range(values.output_low, values.output_high,
                "values: output_low and output_high must be finite and different");
  for (int64_t c = 0; c < channels_of(values.channels); c++) {
    require(std::isfinite(values.mean[c]), "values: each mean must be finite");
    require(std::isfinite(values.std[c]) && values.std[c] > 0, "values: each std must be finite and positive");
  }
  for (size_t c = 0; c < 3; c++) {
    if (values.output_std[c] == 0) values.output_std[c] = 1;
    require(std::isfinite(values.output_mean[c]), "values: each output_mean must be finite");
    require(std::isfinite(values.output_std[c]) && values.output_std[c] > 0,
            "values: each output_std must be finite and positive");
  }
  return values;
}

Normalization::Normalization(const thd_values& values, c10::Device device)
    : input_low_(values.input_low), input_span_(values.input_high - values.input_low) {
  const int64_t channels = channels_of(values.channels);
  const auto all = [&](const float* numbers, float number) {
    return std::all_of(numbers, numbers + channels, [&](float each) { return each == number; });
  };
  if (!all(values.mean, 0)) mean_ = per_channel(values.mean, channels, device);
  if (!all(values.std, 1)) std_ = per_channel(values.std, channels, device);
}

void Normalization::apply(const at::Tensor& input) const {
  if (input_span_ != 1) input.mul_(input_span_);
  if (input_low_ != 0) input.add_(input_low_);
  if (mean_.defined()) input.sub_(mean_);
  if (std_.defined()) input.div_(std_);
}

}  // namespace thd
