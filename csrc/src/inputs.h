// What forward gets: the images of a batch, further inputs of each item, and constants, in the types that it takes.
#ifndef TORCHHERD_SRC_INPUTS_H
#define TORCHHERD_SRC_INPUTS_H

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "program.h"
#include "torchherd.h"
#include "values.h"

namespace thd {

constexpr int64_t kRgb = 3;  // the number of channels of an input image, and of an output in color

struct Batch {
  const uint8_t* const* images;  // count pointers to height*width*3 bytes
  int64_t count;
  int64_t height;
  int64_t width;
  const thd_parts* parts;  // the further inputs; NULL if there are none
};

// Returns the types of forward's parameters. arguments: of its schema, with self.
std::vector<ArgumentType> argument_types(const std::vector<c10::Argument>& arguments);

// Returns the floating point types that a TorchScript module may take its images in, the likeliest first. It is float32
// alone if that is the type of the weights that it computes with: weights that are stored in another type, and that
// freezing has converted, don't count.
std::vector<at::ScalarType> input_types(const torch::jit::Module& module);

// The inputs of a program.
class Inputs {
 public:
  // Throws Failure(THD_ERROR_INVALID_ARGUMENT) for inputs that torchherd.h doesn't allow.
  Inputs(const thd_load_options& options, const ProgramInfo& info, c10::Device device);

  // Reports whether there are further inputs that differ between batches.
  bool vary() const { return images_ + numbers_ > 0; }

  // Returns the batch's further inputs in host memory, those of one parameter stacked, in their order: images as bytes
  // NHWC, numbers as float64 [N]. For a device they are in pinned memory. Throws Failure(THD_ERROR_INVALID_ARGUMENT).
  std::vector<at::Tensor> stack(const Batch& batch) const;

  // Converts what stack has returned, on its device: images to float32 NCHW with the values that the program takes.
  std::vector<at::Tensor> convert(const std::vector<at::Tensor>& parts) const;

  // Runs the program. images: float32 NCHW. parts: of convert. All floating point tensors are converted to the type
  // that the program takes, which the first run finds by trying. Throws what the program throws.
  at::Tensor run(Program* program, const at::Tensor& images, const std::vector<at::Tensor>& parts);

 private:
  struct Input {
    thd_input_kind kind = THD_INPUT_BATCH;
    bool integer = false;
    ArgumentType type = ArgumentType::kTensor;
    bool plain = false;               // not a tensor
    std::vector<int64_t> shape;       // -1: the number of items
    c10::IValue constant;             // a tensor: with 1 for the number of items
    thd_channels channels = THD_RGB;  // of an image
    float threshold = 0;              // of an image
    std::optional<Normalization> normalization;
  };

  Input read(const thd_input& input, ArgumentType type) const;
  std::vector<c10::IValue> arguments(const at::Tensor& images, const std::vector<at::Tensor>& parts,
                                     at::ScalarType type) const;

  c10::Device device_;
  at::Tensor divisor_;  // 255
  std::vector<Input> inputs_;
  int32_t images_ = 0;  // the number of inputs of this kind
  int32_t numbers_ = 0;
  std::vector<at::ScalarType> types_;  // one, once it is known
};

}  // namespace thd

#endif
