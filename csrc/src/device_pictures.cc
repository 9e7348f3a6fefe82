// Batches on a device with streams, by LibTorch's interfaces for any such device: nothing of CUDA's is included or
// linked (graphs, which have no such interface, lie in a library of their own: cuda_graph.cc).
//
//     upload stream    pinned bytes -> device            of batch k+1
//     compute stream   bytes -> floats -> program -> bytes   of batch k
//     download stream  device -> pinned bytes            of batch k-1
//
// Memory comes from LibTorch's caching allocators, for the device's and for pinned memory, which hand a block out again
// only when the streams that use it are past it.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <optional>

#include "graphs.h"
#include "pictures.h"
#include "pixels.h"
#include "translate.h"
#include "values.h"

namespace thd {
namespace {

class DeviceRunner : public PictureRunner {
 public:
  DeviceRunner(Program* program, c10::Device device, const thd_values& values, bool graphs)
      : program_(program),
        device_(device),
        channels_(values.channels),
        streams_(device.type()),
        upload_(streams_.getStreamFromGlobalPool(device)),
        // Streams come round again, and while a graph is recorded nobody else may use its stream; so not from the pool
        // that the others' come from.
        compute_(streams_.getStreamFromGlobalPool(device, /*isHighPriority=*/true)),
        download_(streams_.getStreamFromGlobalPool(device)),
        levels_(at::full({}, 255, at::TensorOptions(at::kFloat).device(device))),
        scale_(values, device) {
    // What loading has queued, such as the widening of weights, and the numbers above.
    follow(streams_.getStream(device), compute_);
    if (graphs) graphs_.emplace(compute_);
  }

  // The program's memory goes next, and batches whose answers nobody has read may be using it.
  ~DeviceRunner() override {
    try {
      compute_.synchronize();
    } catch (const c10::Error&) {  // NOLINT(bugprone-empty-catch): whoever reads those answers hears of it
    }
  }

  DeviceRunner(const DeviceRunner&) = delete;
  DeviceRunner& operator=(const DeviceRunner&) = delete;

  std::unique_ptr<thd_result> run(const Batch& batch) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const at::Tensor bytes = upload(batch);
      const c10::StreamGuard on(compute_);
      return download(compute(bytes));
    });
  }

  at::Tensor answer(const Batch& batch) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const at::Tensor bytes = upload(batch);
      const c10::Stream current = streams_.getStream(device_);
      at::Tensor output;
      {
        const c10::StreamGuard on(compute_);
        output = answered(bytes);
      }
      follow(compute_, current);
      output.record_stream(current);
      return output;
    });
  }

 private:
  // Bytes NHWC with the channels that the program takes, though never as BGR.
  at::Tensor upload(const Batch& batch) {
    const int64_t plane = batch.height * batch.width;
    const int64_t channels = channels_of(channels_);
    const at::Tensor pinned = at::empty({batch.count, batch.height, batch.width, channels},
                                        at::TensorOptions(at::kByte).pinned_memory(true));
    auto* target = pinned.mutable_data_ptr<uint8_t>();
    for (int64_t i = 0; i < batch.count; i++, target += channels * plane) {
      if (channels_ == THD_GRAY) {
        pixels_to_gray(batch.pictures[i], plane, target);
      } else {
        std::memcpy(target, batch.pictures[i], channels * plane);
      }
    }
    const c10::StreamGuard on(upload_);
    at::Tensor bytes = pinned.to(device_, /*non_blocking=*/true);
    follow(upload_, compute_);
    bytes.record_stream(compute_);
    return bytes;
  }

  // Bytes NHWC to bytes NHWC on the compute stream.
  at::Tensor compute(const at::Tensor& bytes) {
    if (!graphs_.has_value()) return translated(bytes);
    return graphs_->run(bytes, [this](const at::Tensor& input) { return translated(input); });
  }

  at::Tensor translated(const at::Tensor& bytes) {
    at::Tensor output = scale_.undo(answered(bytes).to(at::kFloat));
    if (channels_ == THD_BGR && output.size(1) == kRgb) output = output.flip(1);
    // A number that is none compares as false, and so becomes 0.
    const at::Tensor values = output.nan_to_num(0).clamp_(0, 1).mul_(255);
    return values.to(at::kByte).permute({0, 2, 3, 1}).contiguous();
  }

  at::Tensor answered(const at::Tensor& bytes) {
    // Seen as NCHW these are channels-last strides, which the conversion keeps; convolutions in tensor cores want them.
    at::Tensor input = bytes.permute({0, 3, 1, 2});
    if (channels_ == THD_BGR) input = input.flip(1);
    // Divided by a tensor on the device: by a number, CUDA would multiply by 1/255 rounded, and other values come out.
    input = input.to(at::kFloat).div_(levels_);
    scale_.apply(input);
    at::Tensor output = program_->run(input);
    require_pictures(output, bytes.size(0));
    return output;
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

  // What is queued on `second` from now on begins when what is queued on `first` until now has ended.
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
  at::Tensor levels_;
  Scale scale_;
  std::optional<Graphs> graphs_;
};

}  // namespace

std::unique_ptr<PictureRunner> make_device_runner(Program* program, c10::Device device,
                                                  const thd_values& values, bool graphs) {
  return std::make_unique<DeviceRunner>(program, device, values, graphs);
}

}  // namespace thd
