// What becomes of a program's output: which tensor of it is used, what its values mean, and the bytes that they become.
#ifndef TORCHHERD_SRC_OUTPUT_H
#define TORCHHERD_SRC_OUTPUT_H

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "torchherd.h"

namespace thd {

// Returns a tensor of a module's output. path: keys of dicts and indices of tuples and lists, separated by slashes. Containers
// of a single value need no step. Throws Failure(THD_ERROR_OUTPUT), with a list of the values that are there.
at::Tensor chosen(const c10::IValue& output, const std::string& path);

// Converts outputs by thd_values, on any device. Its functions don't change their arguments, whose memory may belong to the
// program.
class Output {
 public:
  Output(const thd_values& values, c10::Device device);

  // Returns the output of a batch as NCHW, in its own dtype, with as many channels as the kind allows. Throws
  // Failure(THD_ERROR_OUTPUT).
  at::Tensor arrange(const at::Tensor& output, int64_t count) const;

  // Reports whether read_images can convert the values of an arranged output to bytes in one pass (pixels.h).
  bool fits_planes(const at::Tensor& arranged) const;
  // Returns an arranged output that fits as float32 NCHW, contiguous; 0..1 become bytes. Three channels have the program's
  // order.
  at::Tensor planes(const at::Tensor& arranged) const;

  // Returns an arranged output as bytes NHWC.
  at::Tensor bytes(const at::Tensor& arranged) const;

  // What is added to a value in 0..255 before it is cut off.
  float half() const { return rounding_ == THD_ROUND_NEAREST ? 0.5F : 0; }

 private:
  bool allows(int64_t channels) const;
  std::string wanted(int64_t count) const;
  std::string hint(const at::Tensor& output) const;
  bool is_bytes(const at::Tensor& arranged) const;
  at::Tensor activated(const at::Tensor& arranged) const;
  at::Tensor normalized(const at::Tensor& values) const;
  at::Tensor in_range(const at::Tensor& values) const;
  at::Tensor rounded(const at::Tensor& values) const;
  at::Tensor in_rgb(const at::Tensor& values) const;
  static at::Tensor classes(const at::Tensor& arranged);
  at::Tensor depth(const at::Tensor& arranged) const;
  at::Tensor chroma(const at::Tensor& arranged) const;

  thd_kind kind_;
  thd_activation activation_;
  thd_layout layout_;
  thd_rounding rounding_;
  bool bgr_;
  float low_;
  // One number for each of four channels, or undefined if their step changes nothing. Divisors are tensors on the device: to
  // divide by a number, CUDA multiplies by its rounded reciprocal.
  at::Tensor mean_;
  at::Tensor std_;
  at::Tensor span_;
};

}  // namespace thd

#endif
