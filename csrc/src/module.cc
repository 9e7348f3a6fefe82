// The C functions for modules: load, describe, run, read.
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/serialization/import.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "device.h"
#include "error.h"
#include "images.h"
#include "precision.h"
#include "program.h"
#include "reader.h"
#include "structs.h"
#include "translate.h"
#include "values.h"

struct thd_module {
  c10::Device device;
  thd_precision precision;
  std::unique_ptr<thd::Program> program;
  std::unique_ptr<thd::ImageRunner> images;
};

namespace {

using thd::Failure;
using thd::require;
using thd::translate;

// load: takes a c10::Device and which output to use, and returns a Program.
template <typename Load>
thd_module* make_module(const thd_load_options* caller_options, Load&& load) {
  const thd_load_options options = thd::read_struct(caller_options, "options");
  require(options.device != nullptr, "options: device must not be NULL");
  const c10::Device device = thd::usable_device(options.device);
  thd::require_precision(options.precision, device);
  require(options.graphs == 0 || device.is_cuda(), "options: graphs are for CUDA devices");
  const thd_values values = options.values == nullptr
                                ? thd::kDefaultValues
                                : thd::checked_values(thd::read_struct(options.values, "values"));
  const std::string output = options.output == nullptr ? "" : options.output;
  const c10::InferenceMode inference;
  const c10::DeviceGuard on(device);
  std::unique_ptr<thd::Program> program = load(device, output);
  thd::Inputs inputs(options, program->info(), device);
  require(options.graphs == 0 || !inputs.vary(),
          "options: graphs are for modules whose inputs are the images and constants");
  auto images = device.is_cpu() ? thd::make_host_runner(program.get(), values, std::move(inputs))
                                : thd::make_device_runner(program.get(), device, values, std::move(inputs),
                                                          options.graphs != 0);
  return new thd_module{.device = device,
                        .precision = options.precision,
                        .program = std::move(program),
                        .images = std::move(images)};
}

void require_file(const char* path) {
  if (!std::ifstream(path).good()) {
    throw Failure(THD_ERROR_NOT_FOUND, std::string(path) + ": no such file, or not readable");
  }
}

torch::jit::Module read_script(const std::shared_ptr<thd::Reader>& reader, const std::string& name,
                               c10::Device device) {
  torch::jit::Module module;
  try {
    module = torch::jit::load(reader, device);
  } catch (const std::exception&) {
    if (!reader->short_read()) throw;
  }
  if (reader->short_read()) {
    throw Failure(THD_ERROR_NOT_A_MODULE,
                  name + ": it is truncated, or can't be read to its end; is it still being written?");
  }
  return module;
}

thd_module* load_from(const std::shared_ptr<thd::Reader>& reader, const std::string& name,
                      const thd_load_options* options) {
  return make_module(options, [&](c10::Device device, const std::string& output) {
    return thd::load_script(name + ": ", device, output,
                            [&](c10::Device to) { return read_script(reader, name, to); });
  });
}

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
  throw Failure(THD_ERROR_INVALID_ARGUMENT, "unknown dtype");
}

thd_dtype dtype_of(at::ScalarType type) {
  for (const thd_dtype dtype : {THD_UINT8, THD_INT32, THD_INT64, THD_FLOAT16, THD_FLOAT32, THD_FLOAT64}) {
    if (scalar_type(dtype) == type) return dtype;
  }
  throw Failure(THD_ERROR_OUTPUT, std::string("the module returned a tensor of dtype ") + c10::toString(type) +
                                      ", which is not supported");
}

thd_tensor_view view_of(thd_dtype dtype, at::IntArrayRef shape, void* data) {
  if (shape.size() > THD_MAX_DIMS) {
    throw Failure(THD_ERROR_OUTPUT, "the module returned a tensor of more than 8 dimensions");
  }
  thd_tensor_view view{};
  view.dtype = dtype;
  view.dims = static_cast<int32_t>(shape.size());
  for (size_t i = 0; i < shape.size(); i++) view.shape[i] = shape[i];
  view.data = data;
  return view;
}

thd_error* check_finite(thd_module* module, const uint8_t* image, int32_t height, int32_t width,
                        const thd_parts* parts) {
  return thd::guard([&] {
    require(module != nullptr && image != nullptr, "no pointer argument may be NULL");
    require(height >= 1 && width >= 1, "height and width must be at least 1");
    const c10::InferenceMode inference;
    const c10::DeviceGuard on(module->device);
    const thd::PrecisionScope scope(module->precision, module->device);
    const thd::Batch batch{.images = &image, .count = 1, .height = height, .width = width, .parts = parts};
    const at::Tensor output = module->program->settle([&] { return module->images->forward(batch); },
                                                      thd::rounding_of(module->precision));
    const bool finite =
        translate(THD_ERROR_FORWARD, "forward: ", [&] { return at::isfinite(output).all().item<bool>(); });
    if (!finite) throw Failure(THD_ERROR_OUTPUT, "the module returned values that are NaN or infinite");
  });
}

thd_error* forward_images(thd_module* module, const uint8_t* const* images, int32_t count, int32_t height,
                          int32_t width, const thd_parts* parts, thd_result** out, thd_tensor_view* view) {
  return thd::guard([&] {
    require(module != nullptr && images != nullptr && out != nullptr && view != nullptr,
            "no pointer argument may be NULL");
    const size_t view_size = thd::size_of_struct(view, "view");
    require(count >= 1 && height >= 1 && width >= 1, "count, height and width must be at least 1");
    for (int32_t i = 0; i < count; i++) require(images[i] != nullptr, "no image may be NULL");
    const c10::InferenceMode inference;
    const c10::DeviceGuard on(module->device);
    const thd::PrecisionScope scope(module->precision, module->device);
    auto result = module->images->run(
        {.images = images, .count = count, .height = height, .width = width, .parts = parts});
    thd::write_struct(view, view_size, view_of(THD_UINT8, thd::image_shape(*result), nullptr));
    *out = result.release();
  });
}

}  // namespace

extern "C" {

thd_error* thd_module_load(int32_t file, const char* name, const thd_load_options* options, thd_module** out) {
  return thd::guard([&] {
    require(name != nullptr && options != nullptr && out != nullptr, "no pointer argument may be NULL");
    *out = load_from(std::make_shared<thd::FileReader>(file), name, options);
  });
}

thd_error* thd_module_load_memory(const void* data, size_t size, const thd_load_options* options,
                                  thd_module** out) {
  return thd::guard([&] {
    require(data != nullptr && options != nullptr && out != nullptr, "no pointer argument may be NULL");
    *out = load_from(std::make_shared<thd::MemoryReader>(data, size), "the model in memory", options);
  });
}

thd_error* thd_module_load_package(const char* library, const char* directory, const thd_load_options* options,
                                   thd_module** out) {
  return thd::guard([&] {
    require(library != nullptr && directory != nullptr && options != nullptr && out != nullptr,
            "no pointer argument may be NULL");
    require(thd::read_struct(options, "options").precision == THD_FP32,
            "precision: a package computes in the one that it was compiled for");
    require_file(library);
    *out = make_module(options, [&](c10::Device device, const std::string& output) {
      return thd::load_package(library, directory, device, output);
    });
  });
}

void thd_module_free(thd_module* module) { delete module; }

thd_error* thd_module_describe(const thd_module* module, thd_module_info* out) {
  return thd::guard([&] {
    require(module != nullptr && out != nullptr, "no pointer argument may be NULL");
    const size_t size = thd::size_of_struct(out, "out");
    const thd::ProgramInfo& info = module->program->info();
    thd::write_struct(out, size,
                      {.struct_size = size,
                       .inputs = info.inputs.c_str(),
                       .parameters = info.parameters,
                       .bytes = info.bytes});
  });
}

thd_error* thd_module_forward(thd_module* module, const thd_tensor_view* input, thd_result** out,
                              thd_tensor_view* view) {
  return thd::guard([&] {
    require(module != nullptr && input != nullptr && out != nullptr && view != nullptr,
            "no pointer argument may be NULL");
    const thd_tensor_view in = thd::read_struct(input, "input");
    const size_t view_size = thd::size_of_struct(view, "view");
    require(in.dims >= 1 && in.dims <= THD_MAX_DIMS, "input: dims must be 1 to 8");
    const at::IntArrayRef shape(in.shape, in.dims);
    for (const int64_t size : shape) require(size >= 1, "input: every dimension must be at least 1");
    require(in.data != nullptr, "input: data must not be NULL");
    const c10::InferenceMode inference;
    const c10::DeviceGuard on(module->device);
    const thd::PrecisionScope scope(module->precision, module->device);
    const at::Tensor batch = at::from_blob(in.data, shape, scalar_type(in.dtype));
    at::Tensor output = translate(THD_ERROR_FORWARD, "forward: ", [&] {
      return module->program->run({batch.to(module->device)}).to(at::kCPU).contiguous();
    });
    // An output that shares the input's memory would outlive it.
    if (output.storage().data_ptr().get() == in.data) output = output.clone();
    const thd_tensor_view result_view =
        view_of(dtype_of(output.scalar_type()), output.sizes(), output.mutable_data_ptr());
    *out = new thd_result{.tensor = std::move(output)};
    thd::write_struct(view, view_size, result_view);
  });
}

thd_error* thd_module_check_finite(thd_module* module, const uint8_t* image, int32_t height, int32_t width) {
  return check_finite(module, image, height, width, nullptr);
}

thd_error* thd_module_check_parts_finite(thd_module* module, const uint8_t* image, int32_t height,
                                         int32_t width, const thd_parts* parts) {
  return check_finite(module, image, height, width, parts);
}

thd_error* thd_module_forward_images(thd_module* module, const uint8_t* const* images, int32_t count,
                                     int32_t height, int32_t width, thd_result** out, thd_tensor_view* view) {
  return forward_images(module, images, count, height, width, nullptr, out, view);
}

thd_error* thd_module_forward_parts(thd_module* module, const uint8_t* const* images, int32_t count,
                                    int32_t height, int32_t width, const thd_parts* parts, thd_result** out,
                                    thd_tensor_view* view) {
  return forward_images(module, images, count, height, width, parts, out, view);
}

thd_error* thd_result_read_images(const thd_result* result, uint8_t* const* images, int32_t count) {
  return thd::guard([&] {
    require(result != nullptr && images != nullptr, "no pointer argument may be NULL");
    require(result->tensor.dim() == 4, "the result doesn't contain images");
    require(count == result->tensor.size(0), "count must equal the batch's");
    for (int32_t i = 0; i < count; i++) require(images[i] != nullptr, "no image may be NULL");
    thd::read_images(*result, images);
  });
}

void thd_result_free(thd_result* result) {
  if (result == nullptr) return;
  const std::unique_ptr<thd_result> owned(result);
  // To free an event, LibTorch switches to the event's device and back to the previous one. On a thread that has never
  // used CUDA that is device 0, where the switch would create a context of some hundred MB. The guard makes the event's
  // device the previous one. Errors of a device that has failed are ignored.
  thd_error_free(thd::guard([&] {
    const c10::OptionalDeviceGuard on(owned->arrived.has_value() ? std::optional(owned->arrived->device())
                                                                 : std::nullopt);
    owned->arrived.reset();
  }));
}

}  // extern "C"
