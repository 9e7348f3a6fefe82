// Batches on a device with streams, by LibTorch's device-independent interfaces: this file neither includes nor links
// CUDA. Graphs have no such interface, so they are in a library of their own (cuda_graph.cc).
//
//     upload stream    pinned bytes -> device                 batch k+1
//     compute stream   bytes -> floats -> program -> bytes    batch k
//     download stream  device -> pinned bytes                 batch k-1
//
// Device memory and pinned memory come from LibTorch's caching allocators, which reuse a block only after all streams
// that use it have passed its last use.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "graphs.h"
#include "images.h"
#include "output.h"
#include "pixels.h"
#include "translate.h"
#include "values.h"

namespace thd {
namespace {

class DeviceRunner : public ImageRunner {
 public:
  DeviceRunner(Program* program, c10::Device device, const thd_values& values, Inputs inputs, bool graphs)
      : program_(program),
        device_(device),
        channels_(values.channels),
        streams_(device.type()),
        upload_(streams_.getStreamFromGlobalPool(device)),
        // A pool reuses its streams, and no other work may use a stream while a graph is recorded on it. So this stream
        // comes from the other pool.
        compute_(streams_.getStreamFromGlobalPool(device, /*isHighPriority=*/true)),
        download_(streams_.getStreamFromGlobalPool(device)),
        divisor_(at::full({}, 255, at::TensorOptions(at::kFloat).device(device))),
        normalization_(values, device),
        output_(values, device),
        inputs_(std::move(inputs)) {
    // Waits for the work that loading has queued, such as converting weights, and for the tensors above.
    follow(streams_.getStream(device), compute_);
    if (graphs) graphs_.emplace(compute_);
  }

  // Waits for batches whose results aren't read yet: they use the program's memory, which is freed next.
  ~DeviceRunner() override {
    try {
      compute_.synchronize();
    } catch (const c10::Error&) {  // NOLINT(bugprone-empty-catch): reading the results reports it
    }
  }

  DeviceRunner(const DeviceRunner&) = delete;
  DeviceRunner& operator=(const DeviceRunner&) = delete;

  std::unique_ptr<thd_result> run(const Batch& batch) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const at::Tensor bytes = upload(batch);
      const std::vector<at::Tensor> parts = upload_parts(batch);
      const c10::StreamGuard on(compute_);
      return download(compute(bytes, parts));
    });
  }

  at::Tensor forward(const Batch& batch) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const at::Tensor bytes = upload(batch);
      const std::vector<at::Tensor> parts = upload_parts(batch);
      const c10::Stream current = streams_.getStream(device_);
      at::Tensor output;
      {
        const c10::StreamGuard on(compute_);
        output = run_program(bytes, parts);
      }
      follow(compute_, current);
      output.record_stream(current);
      return output;
    });
  }

 private:
  // Returns the batch as bytes NHWC on the device, gray if the program takes gray and else RGB. Lightness isn't bytes, so
  // it is computed here, as float32.
  at::Tensor upload(const Batch& batch) {
    const int64_t plane = batch.height * batch.width;
    const int64_t channels = channels_of(channels_);
    const auto type = channels_ == THD_LIGHTNESS ? at::kFloat : at::kByte;
    const at::Tensor pinned = at::empty({batch.count, batch.height, batch.width, channels},
                                        at::TensorOptions(type).pinned_memory(true));
    for (int64_t i = 0; i < batch.count; i++) {
      const int64_t at = i * channels * plane;
      switch (channels_) {
        case THD_LIGHTNESS:
          pixels_to_lightness_plane(batch.images[i], plane, pinned.mutable_data_ptr<float>() + at);
          break;
        case THD_GRAY:
          pixels_to_gray(batch.images[i], plane, pinned.mutable_data_ptr<uint8_t>() + at);
          break;
        default:
          std::memcpy(pinned.mutable_data_ptr<uint8_t>() + at, batch.images[i], channels * plane);
      }
    }
    const c10::StreamGuard on(upload_);
    at::Tensor bytes = pinned.to(device_, /*non_blocking=*/true);
    follow(upload_, compute_);
    bytes.record_stream(compute_);
    return bytes;
  }

  // Returns the batch's further inputs on the device, unconverted.
  std::vector<at::Tensor> upload_parts(const Batch& batch) {
    std::vector<at::Tensor> parts = inputs_.stack(batch);
    if (parts.empty()) return parts;
    const c10::StreamGuard on(upload_);
    for (at::Tensor& part : parts) part = part.to(device_, /*non_blocking=*/true);
    follow(upload_, compute_);
    for (const at::Tensor& part : parts) part.record_stream(compute_);
    return parts;
  }

  // Runs the program on bytes NHWC and returns its output as bytes NHWC, by a graph if possible: with graphs, there are
  // no further inputs but constants.
  at::Tensor compute(const at::Tensor& bytes, const std::vector<at::Tensor>& parts) {
    if (!graphs_.has_value()) return convert_and_run(bytes, parts);
    return graphs_->run(bytes, [this](const at::Tensor& input) { return convert_and_run(input, {}); });
  }

  at::Tensor convert_and_run(const at::Tensor& bytes, const std::vector<at::Tensor>& parts) {
    return output_.bytes(run_program(bytes, parts));
  }

  // Runs the program on bytes NHWC and further inputs, and returns its unconverted output.
  at::Tensor run_program(const at::Tensor& bytes, const std::vector<at::Tensor>& parts) {
    // This view has channels-last strides, which the conversion to float keeps. Convolutions on tensor cores need them.
    at::Tensor input = bytes.permute({0, 3, 1, 2});
    if (channels_ == THD_BGR) input = input.flip(1);
    // The divisor is a tensor: to divide by a number, CUDA multiplies by its rounded reciprocal, which changes values.
    input = channels_ == THD_LIGHTNESS ? input.clone() : input.to(at::kFloat).div_(divisor_);
    normalization_.apply(input);
    return output_.arrange(inputs_.run(program_, input, inputs_.convert(parts)), bytes.size(0));
  }

  std::unique_ptr<thd_result> download(const at::Tensor& bytes) {
    follow(compute_, download_);
    const c10::StreamGuard on(download_);
    at::Tensor pinned = at::empty(bytes.sizes(), at::TensorOptions(at::kByte).pinned_memory(true));
    pinned.copy_(bytes, /*non_blocking=*/true);
    bytes.record_stream(download_);
    c10::Event arrived(device_.type());
    arrived.record(download_);
    return std::make_unique<thd_result>(thd_result{.tensor = std::move(pinned), .arrived = std::move(arrived)});
  }

  // Makes later work on `second` wait for the work that is now queued on `first`.
  void follow(const c10::Stream& first, const c10::Stream& second) const {
    c10::Event event(device_.type());
    event.record(first);
    event.block(second);
  }

  Program* program_;
  c10::Device device_;
  thd_channels channels_;
  c10::impl::VirtualGuardImpl streams_;
  c10::Stream upload_;
  c10::Stream compute_;
  c10::Stream download_;
  at::Tensor divisor_;
  Normalization normalization_;
  Output output_;
  Inputs inputs_;
  std::optional<Graphs> graphs_;
};

}  // namespace

std::unique_ptr<ImageRunner> make_device_runner(Program* program, c10::Device device, const thd_values& values,
                                                Inputs inputs, bool graphs) {
  return std::make_unique<DeviceRunner>(program, device, values, std::move(inputs), graphs);
}

}  // namespace thd
