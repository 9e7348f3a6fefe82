// TorchScript modules: load, describe, run.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "device.h"
#include "error.h"
#include "pixels.h"

struct thd_module {
  torch::jit::Module script;
  c10::Device device;
  std::string device_name;
  std::string inputs;
  int64_t parameters;
  int64_t bytes;
};

struct thd_result {
  at::Tensor tensor;  // on the CPU, contiguous
};

namespace {

using thd::Failure;
using thd::require;

constexpr int kRgb = 3;
// Pixels that one thread converts at least, so that small pictures don't pay for handing work out.
constexpr int64_t kPixelGrain = 16384;

// A c10::Error's what() carries a C++ stack trace, which says nothing to the reader of a server's log.
std::string text_of(const std::exception& error) {
  const auto* c10_error = dynamic_cast<const c10::Error*>(&error);
  return c10_error == nullptr ? error.what() : c10_error->what_without_backtrace();
}

// Runs body, which enters LibTorch, and gives what LibTorch throws the code that fits the operation.
template <typename Body>
auto translate(thd_code code, const std::string& subject, Body&& body) {
  try {
    return body();
  } catch (const Failure&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const c10::OutOfMemoryError& e) {
    throw Failure(THD_ERROR_OUT_OF_MEMORY, subject + e.what_without_backtrace());
  } catch (const std::exception& e) {
    throw Failure(code, subject + text_of(e));
  }
}

// TorchScript and plain checkpoints are both zip files; only the former carries code. A person who gives the
// latter deserves to hear so.
bool looks_like_checkpoint(const std::string& error) {
  return error.find("constants.pkl") != std::string::npos || error.find("data.pkl") != std::string::npos;
}

std::string describe_inputs(const torch::jit::Module& script) {
  std::ostringstream lines;
  const auto& arguments = script.get_method("forward").function().getSchema().arguments();
  for (size_t i = 1; i < arguments.size(); i++) {  // the first one is self
    if (i > 1) lines << '\n';
    lines << arguments[i].name() << ": " << arguments[i].type()->str();
  }
  return lines.str();
}

// load: takes a c10::Device and returns a torch::jit::Module.
template <typename Load>
thd_module* make_module(const std::string& subject, const char* device_name, Load&& load) {
  const c10::Device device = thd::usable_device(device_name);
  return translate(THD_ERROR_NOT_A_MODULE, subject, [&] {
    const c10::InferenceMode inference;
    torch::jit::Module script;
    try {
      script = load(device);
    } catch (const c10::Error& e) {
      if (!looks_like_checkpoint(e.what_without_backtrace())) throw;
      throw Failure(THD_ERROR_NOT_A_MODULE, subject +
                                                "a PyTorch checkpoint without code, not a TorchScript module; "
                                                "export it with torch.jit.trace or torch.jit.script");
    }
    if (!script.find_method("forward").has_value()) {
      throw Failure(THD_ERROR_NOT_A_MODULE, subject + "the module has no forward method");
    }
    script.eval();
    int64_t parameters = 0;
    int64_t bytes = 0;
    const auto count = [&](const at::Tensor& tensor) {
      parameters += tensor.numel();
      bytes += static_cast<int64_t>(tensor.nbytes());
    };
    for (const auto& tensor : script.parameters()) count(tensor);
    for (const auto& tensor : script.buffers()) count(tensor);
    std::string inputs = describe_inputs(script);
    return new thd_module{.script = std::move(script),
                          .device = device,
                          .device_name = device.str(),
                          .inputs = std::move(inputs),
                          .parameters = parameters,
                          .bytes = bytes};
  });
}

// Reads from memory that somebody else owns.
class MemoryBuffer : public std::streambuf {
 public:
  MemoryBuffer(const void* data, size_t size) {
    auto* begin = static_cast<char*>(const_cast<void*>(data));
    setg(begin, begin, begin + size);
  }

 protected:
  pos_type seekoff(off_type offset, std::ios_base::seekdir from, std::ios_base::openmode /*which*/) override {
    char* base = from == std::ios_base::beg ? eback() : from == std::ios_base::cur ? gptr() : egptr();
    if (offset < eback() - base || offset > egptr() - base) return off_type{-1};
    setg(eback(), base + offset, egptr());
    return gptr() - eback();
  }
  pos_type seekpos(pos_type position, std::ios_base::openmode which) override {
    return seekoff(position, std::ios_base::beg, which);
  }
};

at::ScalarType scalar_type(thd_dtype dtype) {
  switch (dtype) {
    case THD_UINT8:
      return at::kByte;
    case THD_INT32:
      return at::kInt;
    case THD_INT64:
      return at::kLong;
    case THD_FLOAT16:
      return at::kHalf;
    case THD_FLOAT32:
      return at::kFloat;
    case THD_FLOAT64:
      return at::kDouble;
  }
  throw Failure(THD_ERROR_INVALID_ARGUMENT, "no such dtype");
}

thd_dtype dtype_of(at::ScalarType type) {
  for (const thd_dtype dtype : {THD_UINT8, THD_INT32, THD_INT64, THD_FLOAT16, THD_FLOAT32, THD_FLOAT64}) {
    if (scalar_type(dtype) == type) return dtype;
  }
  throw Failure(THD_ERROR_OUTPUT, std::string("the module answered with dtype ") + c10::toString(type) +
                                      ", which has no equal here");
}

void fill_view(const at::Tensor& tensor, void* data, thd_tensor_view* view) {
  if (tensor.dim() > THD_MAX_DIMS) {
    throw Failure(THD_ERROR_OUTPUT, "the module answered with more than 8 dimensions");
  }
  *view = {};
  view->dtype = dtype_of(tensor.scalar_type());
  view->dims = static_cast<int32_t>(tensor.dim());
  for (int64_t i = 0; i < tensor.dim(); i++) view->shape[i] = tensor.size(i);
  view->data = data;
}

at::Tensor run(thd_module* module, at::Tensor input) {
  return translate(THD_ERROR_FORWARD, "forward: ", [&] {
    std::vector<c10::IValue> inputs;
    inputs.emplace_back(input.to(module->device));
    const c10::IValue output = module->script.forward(std::move(inputs));
    if (!output.isTensor()) {
      throw Failure(THD_ERROR_OUTPUT, "the module answered with a " + output.tagKind() + ", not with a tensor");
    }
    return output.toTensor();
  });
}

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

// Calls body(item, first, pixels) for spans that together are all pixels of count pictures with `plane` pixels each,
// from several threads at once when they are many. A span lies in one picture.
template <typename Body>
void for_each_span(int64_t count, int64_t plane, const Body& body) {
  at::parallel_for(0, count * plane, kPixelGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t first = begin % plane;
      const int64_t pixels = std::min(end - begin, plane - first);
      body(begin / plane, first, pixels);
      begin += pixels;
    }
  });
}

// The pictures, stacked, as float32 NCHW in 0..1 on the CPU.
at::Tensor stack(const uint8_t* const* pictures, int64_t count, int64_t height, int64_t width) {
  const int64_t plane = height * width;
  at::Tensor batch = at::empty({count, kRgb, height, width}, at::kFloat);
  auto* values = batch.mutable_data_ptr<float>();
  for_each_span(count, plane, [&](int64_t item, int64_t first, int64_t pixels) {
    thd::pixels_to_planes(pictures[item] + first * kRgb, pixels, values + item * kRgb * plane + first, plane);
  });
  return batch;
}

}  // namespace

extern "C" {

thd_error* thd_module_load(const char* path, const char* device, thd_module** out) {
  return thd::guard([&] {
    require(path != nullptr && device != nullptr && out != nullptr, "no pointer may be NULL");
    const std::string subject = std::string(path) + ": ";
    if (!std::ifstream(path).good()) {
      throw Failure(THD_ERROR_NOT_FOUND, subject + "no such file, or not readable");
    }
    *out = make_module(subject, device, [&](c10::Device to) { return torch::jit::load(path, to); });
  });
}

thd_error* thd_module_load_memory(const void* data, size_t size, const char* device, thd_module** out) {
  return thd::guard([&] {
    require(data != nullptr && device != nullptr && out != nullptr, "no pointer may be NULL");
    *out = make_module("module in memory: ", device, [&](c10::Device to) {
      MemoryBuffer buffer(data, size);
      std::istream stream(&buffer);
      return torch::jit::load(stream, to);
    });
  });
}

void thd_module_free(thd_module* module) { delete module; }

thd_error* thd_module_describe(const thd_module* module, thd_module_info* out) {
  return thd::guard([&] {
    require(module != nullptr && out != nullptr, "no pointer may be NULL");
    *out = {.inputs = module->inputs.c_str(),
            .device = module->device_name.c_str(),
            .parameters = module->parameters,
            .bytes = module->bytes};
  });
}

thd_error* thd_module_forward(thd_module* module, const thd_tensor_view* input, thd_result** out,
                              thd_tensor_view* view) {
  return thd::guard([&] {
    require(module != nullptr && input != nullptr && out != nullptr && view != nullptr,
            "no pointer may be NULL");
    require(input->dims >= 1 && input->dims <= THD_MAX_DIMS, "input: 1 to 8 dimensions");
    const at::IntArrayRef shape(input->shape, input->dims);
    for (const int64_t size : shape) require(size >= 1, "input: every dimension must be 1 or more");
    require(input->data != nullptr, "input: data must not be NULL");
    const c10::InferenceMode inference;
    at::Tensor output = run(module, at::from_blob(input->data, shape, scalar_type(input->dtype)));
    output = translate(THD_ERROR_FORWARD, "forward: ", [&] { return output.to(at::kCPU).contiguous(); });
    // An answer that is the input itself, or a part of it, would outlive the caller's memory.
    if (output.storage().data_ptr().get() == input->data) output = output.clone();
    thd_tensor_view described;
    fill_view(output, output.mutable_data_ptr(), &described);
    *out = new thd_result{std::move(output)};
    *view = described;
  });
}

thd_error* thd_module_forward_pictures(thd_module* module, const uint8_t* const* pictures, int32_t count,
                                       int32_t height, int32_t width, thd_result** out, thd_tensor_view* view) {
  return thd::guard([&] {
    require(module != nullptr && pictures != nullptr && out != nullptr && view != nullptr,
            "no pointer may be NULL");
    require(count >= 1 && height >= 1 && width >= 1, "count, height and width must be 1 or more");
    for (int32_t i = 0; i < count; i++) require(pictures[i] != nullptr, "no picture may be NULL");
    const c10::InferenceMode inference;
    at::Tensor output = run(module, stack(pictures, count, height, width));
    if (output.dim() != 4 || output.size(0) != count || (output.size(1) != 1 && output.size(1) != kRgb) ||
        output.numel() == 0 || !at::isFloatingType(output.scalar_type())) {
      throw Failure(THD_ERROR_OUTPUT, std::string("the module answered with ") +
                                          c10::toString(output.scalar_type()) + " " +
                                          shape_text(output.sizes()) + "; a batch of " + std::to_string(count) +
                                          " pictures needs floating point [" + std::to_string(count) +
                                          ", 1 or 3, height, width]");
    }
    output =
        translate(THD_ERROR_FORWARD, "forward: ", [&] { return output.to(at::kCPU, at::kFloat).contiguous(); });
    thd_tensor_view described;
    fill_view(output, nullptr, &described);
    *out = new thd_result{std::move(output)};
    *view = described;
  });
}

thd_error* thd_result_read_pictures(const thd_result* result, uint8_t* const* pictures, int32_t count) {
  return thd::guard([&] {
    require(result != nullptr && pictures != nullptr, "no pointer may be NULL");
    const at::Tensor& tensor = result->tensor;
    require(tensor.dim() == 4 && tensor.scalar_type() == at::kFloat, "the result doesn't hold pictures");
    require(count == tensor.size(0), "count must be the batch's");
    for (int32_t i = 0; i < count; i++) require(pictures[i] != nullptr, "no picture may be NULL");
    const auto channels = static_cast<int>(tensor.size(1));
    const int64_t plane = tensor.size(2) * tensor.size(3);
    const auto* values = tensor.const_data_ptr<float>();
    for_each_span(count, plane, [&](int64_t item, int64_t first, int64_t pixels) {
      thd::planes_to_pixels(values + item * channels * plane + first, plane, channels, pixels,
                            pictures[item] + first * channels);
    });
  });
}

void thd_result_free(thd_result* result) { delete result; }

}  // extern "C"
