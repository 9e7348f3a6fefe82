// The meaning of the values in a program's input and output.
#ifndef TORCHHERD_SRC_VALUES_H
#define TORCHHERD_SRC_VALUES_H

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "torchherd.h"

namespace thd {

// RGB and values from 0 to 1, for options without values.
constexpr thd_values kDefaultValues{.struct_size = sizeof(thd_values),
                                    .channels = THD_RGB,
                                    .input_low = 0,
                                    .input_high = 1,
                                    .mean = {0, 0, 0},
                                    .std = {1, 1, 1},
                                    .output_low = 0,
                                    .output_high = 1,
                                    .reserved = 0,
                                    .kind = THD_IMAGE,
                                    .activation = THD_NO_ACTIVATION,
                                    .layout = THD_LAYOUT_AUTO,
                                    .rounding = THD_ROUND_DOWN,
                                    .output_mean = {0, 0, 0},
                                    .output_std = {1, 1, 1}};

// Returns the values with the defaults of fields that an older caller doesn't have. Throws
// Failure(THD_ERROR_INVALID_ARGUMENT) for values that torchherd.h doesn't allow.
thd_values checked_values(thd_values values);

// Returns the number of channels of a program's input.
inline int64_t channels_of(thd_channels channels) {
  return channels == THD_GRAY || channels == THD_LIGHTNESS ? 1 : 3;
}

// Returns one number per channel, in a shape that broadcasts over NCHW.
at::Tensor per_channel(const float* numbers, int64_t count, c10::Device device);

// Applies the input's range, mean and standard deviation by LibTorch's operators, on any device. Skips steps that change
// nothing. Output (output.h) does the same for outputs.
class Normalization {
 public:
  Normalization(const thd_values& values, c10::Device device);

  // Converts an input in place from 0..1 to the program's values. input: float32 NCHW.
  void apply(const at::Tensor& input) const;

 private:
  float input_low_;
  float input_span_;
  // Divisors are tensors on the device: to divide by a number, CUDA multiplies by its rounded reciprocal. A tensor is
  // undefined if its step changes nothing.
  at::Tensor mean_;
  at::Tensor std_;
};

}  // namespace thd

#endif
