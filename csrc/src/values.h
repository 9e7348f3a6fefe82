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
                                    .output_high = 1};

// Throws Failure(THD_ERROR_INVALID_ARGUMENT) for values that torchherd.h doesn't allow.
void require_values(const thd_values& values);

// Returns the number of channels of a program's input.
inline int64_t channels_of(thd_channels channels) { return channels == THD_GRAY ? 1 : 3; }

// Applies ranges, means and standard deviations by LibTorch's operators, on any device. Skips steps that change
// nothing.
class Normalization {
 public:
  Normalization(const thd_values& values, c10::Device device);

  // Converts an input in place from 0..1 to the program's values. input: float32 NCHW.
  void apply(const at::Tensor& input) const;

  // Returns an output converted from the program's values to 0..1. output: float32 NCHW; not changed, since its memory
  // may belong to the program.
  at::Tensor undo(const at::Tensor& output) const;

 private:
  float input_low_;
  float input_span_;
  float output_low_;
  // Divisors are tensors on the device: to divide by a number, CUDA multiplies by its rounded reciprocal. A tensor is
  // undefined if its step changes nothing.
  at::Tensor mean_;
  at::Tensor std_;
  at::Tensor output_span_;
};

}  // namespace thd

#endif
