#include "inputs.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "pixels.h"
#include "structs.h"
#include "translate.h"

namespace thd {
namespace {

constexpr int64_t kItems = -1;  // the number of items, in a shape

// Calls see for each tensor constant in a block and the blocks within it.
template <typename See>
void each_constant(const torch::jit::Block* block, const See& see) {
  for (const torch::jit::Node* node : block->nodes()) {
    if (node->kind() == c10::prim::Constant) {
      const auto value = torch::jit::toIValue(node->output());
      if (value.has_value() && value->isTensor()) see(value->toTensor());
    }
    for (const torch::jit::Block* inner : node->blocks()) each_constant(inner, see);
  }
}

// Returns shape with count in the place of the number of items.
std::vector<int64_t> with_items(std::vector<int64_t> shape, int64_t count) {
  std::ranges::replace(shape, kItems, count);
  return shape;
}

// Returns a plain number as the type that a parameter declares.
c10::IValue plain_number(double number, ArgumentType type, bool integer, c10::Device device) {
  switch (type) {
    case ArgumentType::kReal:
      return number;
    case ArgumentType::kInteger:
      if (number != std::floor(number)) {
        throw Failure(THD_ERROR_FORWARD,
                      "forward: a parameter is declared int, and got " + std::to_string(number));
      }
      return static_cast<int64_t>(number);
    case ArgumentType::kBool:
      return number != 0;
    case ArgumentType::kTensor:
      break;
  }
  const auto options = at::TensorOptions(integer ? at::kLong : at::kFloat).device(device);
  return at::full({}, number, options);
}

const char* type_name(at::ScalarType type) { return c10::toString(type); }

}  // namespace

std::vector<ArgumentType> argument_types(const std::vector<c10::Argument>& arguments) {
  std::vector<ArgumentType> types;
  for (size_t i = 1; i < arguments.size(); i++) {
    c10::TypePtr type = arguments[i].type();
    if (const auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
    switch (type->kind()) {
      case c10::TypeKind::FloatType:
      case c10::TypeKind::NumberType:
        types.push_back(ArgumentType::kReal);
        break;
      case c10::TypeKind::IntType:
        types.push_back(ArgumentType::kInteger);
        break;
      case c10::TypeKind::BoolType:
        types.push_back(ArgumentType::kBool);
        break;
      default:
        types.push_back(ArgumentType::kTensor);
    }
  }
  return types;
}

std::vector<at::ScalarType> input_types(const torch::jit::Module& module) {
  at::ScalarType first = at::kFloat;
  bool mixed = false;
  bool found = false;
  const auto see = [&](const at::Tensor& tensor) {
    // Numbers that a graph holds as tensors without dimensions don't decide in which type it computes.
    if (!tensor.defined() || tensor.dim() == 0 || !at::isFloatingType(tensor.scalar_type())) return;
    if (!found) first = tensor.scalar_type();
    mixed = mixed || tensor.scalar_type() != first;
    found = true;
  };
  for (const auto& tensor : module.parameters()) see(tensor);
  for (const auto& tensor : module.buffers()) see(tensor);
  const auto graph = module.get_method("forward").graph();
  each_constant(graph->block(), see);
  if (!mixed && first == at::kFloat) return {at::kFloat};
  // A module of several types is run as until now if it takes float32.
  if (mixed)
    return first == at::kFloat ? std::vector{at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}
                               : std::vector{at::kFloat, first};
  return {first, at::kFloat};
}

Inputs::Inputs(const thd_load_options& options, const ProgramInfo& info, c10::Device device)
    : device_(device),
      divisor_(at::full({}, 255, at::TensorOptions(at::kFloat).device(device))),
      types_(info.types) {
  require(options.input_count >= 0 && (options.inputs == nullptr) == (options.input_count == 0),
          "options: input_count must be the number of inputs");
  int32_t batches = 0;
  const auto* at = reinterpret_cast<const std::byte*>(options.inputs);
  for (int32_t i = 0; i < options.input_count; i++) {
    const auto* caller = reinterpret_cast<const thd_input*>(at);
    const thd_input input = read_struct(caller, "inputs");
    at += options.inputs->struct_size;
    const auto index = static_cast<size_t>(i);
    inputs_.push_back(
        read(input, index < info.arguments.size() ? info.arguments[index] : ArgumentType::kTensor));
    batches += input.kind == THD_INPUT_BATCH ? 1 : 0;
    images_ += input.kind == THD_INPUT_IMAGE ? 1 : 0;
    numbers_ += input.kind == THD_INPUT_NUMBER ? 1 : 0;
  }
  if (inputs_.empty()) {
    inputs_.emplace_back();
  } else {
    require(batches == 1, "inputs: exactly one must be the batch's images");
  }
}

Inputs::Input Inputs::read(const thd_input& input, ArgumentType type) const {
  Input to;
  to.kind = input.kind;
  to.integer = input.integer != 0;
  to.type = type;
  to.threshold = input.threshold;
  switch (input.kind) {
    case THD_INPUT_BATCH:
    case THD_INPUT_NONE:
      return to;
    case THD_INPUT_IMAGE: {
      require(input.values != nullptr, "inputs: values of an image must not be NULL");
      const thd_values values = checked_values(read_struct(input.values, "values"));
      require(values.channels != THD_LIGHTNESS, "inputs: a further image can't be lightness");
      require(std::isfinite(input.threshold) && input.threshold >= 0,
              "inputs: threshold must be finite and at least 0");
      to.channels = values.channels;
      to.normalization.emplace(values, device_);
      return to;
    }
    case THD_INPUT_NUMBER:
    case THD_INPUT_CONSTANT:
      break;
    default:
      require(false, "inputs: unknown kind");
  }
  require(input.dims >= -1 && input.dims <= THD_MAX_DIMS, "inputs: dims must be -1 to 8");
  to.plain = input.dims < 0;
  int64_t elements = 1;
  for (int32_t d = 0; d < input.dims; d++) {
    const int64_t size = input.shape[d];
    require(size == kItems || (size >= 1 && size <= INT32_MAX && elements <= INT32_MAX / size),
            "inputs: a size must be -1 or at least 1, and all of them together at most 2^31");
    if (size != kItems) elements *= size;
    to.shape.push_back(size);
  }
  require(std::count(to.shape.begin(), to.shape.end(), kItems) <= 1, "inputs: -1 may be in a shape once");
  if (input.kind == THD_INPUT_NUMBER) {
    require(elements == 1, "inputs: the shape of a number must consist of 1 and -1");
    return to;
  }
  require(input.numbers != nullptr, "inputs: numbers of a constant must not be NULL");
  if (to.plain) {
    to.constant = translate(THD_ERROR_INVALID_ARGUMENT, "inputs: ", [&] {
      return plain_number(*input.numbers, type, to.integer, device_);
    });
    return to;
  }
  auto* numbers =
      const_cast<double*>(input.numbers);  // NOLINT(cppcoreguidelines-pro-type-const-cast): only read
  to.constant = at::from_blob(numbers, with_items(to.shape, 1), at::kDouble)
                    .to(device_, to.integer ? at::kLong : at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  return to;
}

std::vector<at::Tensor> Inputs::stack(const Batch& batch) const {
  if (!vary()) {
    require(batch.parts == nullptr, "parts: the module has no further inputs");
    return {};
  }
  require(batch.parts != nullptr, "parts: the module has further inputs");
  const thd_parts parts = read_struct(batch.parts, "parts");
  require(parts.image_inputs == images_ && parts.number_inputs == numbers_,
          "parts: the inputs aren't the module's");
  require(images_ == 0 || (parts.images != nullptr && parts.sizes != nullptr),
          "parts: images must not be NULL");
  require(numbers_ == 0 || parts.numbers != nullptr, "parts: numbers must not be NULL");
  const auto options = [&](at::ScalarType type) {
    return at::TensorOptions(type).pinned_memory(!device_.is_cpu());
  };
  std::vector<at::Tensor> stacked;
  int64_t image = 0;
  int64_t number = 0;
  for (const Input& input : inputs_) {
    if (input.kind == THD_INPUT_IMAGE) {
      const int64_t height = parts.sizes[2 * image];
      const int64_t width = parts.sizes[2 * image + 1];
      require(height >= 1 && width >= 1, "parts: height and width must be at least 1");
      const int64_t plane = height * width;
      const int64_t channels = channels_of(input.channels);
      const at::Tensor bytes = at::empty({batch.count, height, width, channels}, options(at::kByte));
      auto* target = bytes.mutable_data_ptr<uint8_t>();
      for (int64_t i = 0; i < batch.count; i++, target += channels * plane) {
        const uint8_t* source = parts.images[image * batch.count + i];
        require(source != nullptr, "parts: no image may be NULL");
        if (input.channels == THD_GRAY) {
          pixels_to_gray(source, plane, target);
        } else {
          std::memcpy(target, source, channels * plane);
        }
      }
      stacked.push_back(bytes);
      image++;
    } else if (input.kind == THD_INPUT_NUMBER) {
      const double* source = parts.numbers + number * batch.count;
      const bool each = std::count(input.shape.begin(), input.shape.end(), kItems) > 0;
      for (int64_t i = 1; i < batch.count; i++) {
        require(each || source[i] == source[0],
                "parts: a number without a dimension for the items must be equal in a batch");
      }
      const at::Tensor values = at::empty({each ? batch.count : 1}, options(at::kDouble));
      std::copy_n(source, values.numel(), values.mutable_data_ptr<double>());
      // A plain number is part of the program's arguments, not of its tensors.
      stacked.push_back(values);
      number++;
    }
  }
  return stacked;
}

std::vector<at::Tensor> Inputs::convert(const std::vector<at::Tensor>& parts) const {
  std::vector<at::Tensor> converted;
  converted.reserve(parts.size());
  size_t next = 0;
  for (const Input& input : inputs_) {
    if (input.kind == THD_INPUT_NUMBER) {
      converted.push_back(parts[next++]);
    } else if (input.kind == THD_INPUT_IMAGE) {
      at::Tensor image = parts[next++].permute({0, 3, 1, 2});
      if (input.channels == THD_BGR) image = image.flip(1);
      // A program on the CPU gets the layout that the images have there.
      if (device_.is_cpu()) image = image.contiguous();
      image = image.to(at::kFloat).div_(divisor_);
      if (input.threshold > 0) image = image.ge(input.threshold).to(at::kFloat);
      if (input.normalization.has_value()) input.normalization->apply(image);
      converted.push_back(image);
    }
  }
  return converted;
}

std::vector<c10::IValue> Inputs::arguments(const at::Tensor& images, const std::vector<at::Tensor>& parts,
                                           at::ScalarType type) const {
  std::vector<c10::IValue> arguments;
  arguments.reserve(inputs_.size());
  const int64_t count = images.size(0);
  const auto typed = [&](const Input& input, const at::Tensor& tensor) {
    return tensor.to(input.integer ? at::kLong : type);
  };
  size_t next = 0;
  for (const Input& input : inputs_) {
    switch (input.kind) {
      case THD_INPUT_BATCH:
        arguments.emplace_back(images.to(type));
        break;
      case THD_INPUT_IMAGE:
        arguments.emplace_back(parts[next++].to(type));
        break;
      case THD_INPUT_NUMBER: {
        const at::Tensor& values = parts[next++];
        if (input.plain && input.type != ArgumentType::kTensor) {
          arguments.push_back(plain_number(values.item<double>(), input.type, input.integer, device_));
        } else {
          arguments.emplace_back(typed(input, values.reshape(with_items(input.shape, count))));
        }
        break;
      }
      case THD_INPUT_CONSTANT:
        if (!input.constant.isTensor()) {
          arguments.push_back(input.constant);
        } else {
          arguments.emplace_back(
              typed(input, input.constant.toTensor()).expand(with_items(input.shape, count)).contiguous());
        }
        break;
      case THD_INPUT_NONE:
        arguments.emplace_back();
        break;
    }
  }
  return arguments;
}

at::Tensor Inputs::run(Program* program, const at::Tensor& images, const std::vector<at::Tensor>& parts) {
  const auto attempt = [&](at::ScalarType type) {
    return program->run(
        translate(THD_ERROR_FORWARD, "forward: ", [&] { return arguments(images, parts, type); }));
  };
  if (types_.size() == 1) return attempt(types_.front());
  std::string reasons;
  for (const at::ScalarType type : types_) {
    try {
      at::Tensor output = attempt(type);
      types_ = {type};
      return output;
    } catch (const Failure& failure) {
      if (failure.code() != THD_ERROR_FORWARD) throw;
      reasons += (reasons.empty() ? "" : "\n") + std::string("with an input of type ") + type_name(type) +
                 ": " + failure.what();
    }
  }
  throw Failure(THD_ERROR_FORWARD, reasons);
}

}  // namespace thd
