// What a program wants of its pixels, and what its answer's values mean.
#ifndef TORCHHERD_SRC_VALUES_H
#define TORCHHERD_SRC_VALUES_H

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "torchherd.h"

namespace thd {

// Values 0 to 1 in RGB, which a program gets and gives unless its loader says otherwise.
constexpr thd_values kPlainValues{.channels = THD_RGB,
                                  .input_low = 0,
                                  .input_high = 1,
                                  .mean = {0, 0, 0},
                                  .std = {1, 1, 1},
                                  .output_low = 0,
                                  .output_high = 1};

// Throws Failure(THD_ERROR_INVALID_ARGUMENT) for values that no tensor can have.
void require_values(const thd_values& values);

// The channels of a program's input.
inline int64_t channels_of(thd_channels channels) { return channels == THD_GRAY ? 1 : 3; }

// Ranges, means and deviations, by LibTorch's operators on whatever device. Each does nothing where the values are plain.
class Scale {
 public:
  Scale(const thd_values& values, c10::Device device);

  // Changes the input of a program, float32 NCHW in 0..1, into what the program wants.
  void apply(const at::Tensor& input) const;

  // Returns a program's answer, float32 NCHW, in 0..1. The answer itself may be the program's own and is left alone.
  at::Tensor undo(const at::Tensor& answer) const;

 private:
  float low_;
  float span_;
  float answer_low_;
  // Divisors, on the device: dividing by a number, CUDA would multiply by its rounded inverse. Undefined where there is
  // nothing to do.
  at::Tensor mean_;
  at::Tensor std_;
  at::Tensor answer_span_;
};

}  // namespace thd

#endif
