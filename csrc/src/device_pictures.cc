// Batches on a device with streams, by LibTorch's interfaces for any such device: nothing of CUDA's is included or
// linked.
//
//     upload stream    pinned bytes -> device            of batch k+1
//     compute stream   bytes -> floats -> program -> bytes   of batch k
//     download stream  device -> pinned bytes            of batch k-1
//
// Memory comes from LibTorch's caching allocators, for the device's and for pinned memory, which hand a block out again
// only when the streams that use it are past it.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <map>

#include "pictures.h"
#include "translate.h"

#if __has_include(<ATen/accelerator/Graph.h>)
#include <ATen/accelerator/Graph.h>
#define THD_GRAPHS 1
#else
#define THD_GRAPHS 0
#endif

namespace thd {
namespace {

constexpr int64_t kRgb = 3;

#if THD_GRAPHS

// The work of one shape of batch, recorded once and replayed with new bytes in its input.
class Captured {
 public:
  // work: queues the work on input and returns its output, all on the current stream.
  template <typename Work>
  Captured(const at::Tensor& example, const c10::Stream& stream, Work&& work) : input_(at::empty_like(example)) {
    input_.copy_(example);
    stream.synchronize();
    graph_.capture_begin();
    try {
      output_ = work(input_);
    } catch (...) {
      // The stream must leave its capture before anything else can run on it.
      try {
        graph_.capture_end();
      } catch (const c10::Error&) {  // NOLINT(bugprone-empty-catch): what the work threw says more
      }
      throw;
    }
    graph_.capture_end();
  }

  const at::Tensor& replay(const at::Tensor& input) {
    input_.copy_(input, /*non_blocking=*/true);
    graph_.replay();
    return output_;
  }

 private:
  at::Tensor input_;
  at::Tensor output_;
  at::accelerator::Graph graph_;
};

#endif

class DeviceRunner : public PictureRunner {
 public:
  DeviceRunner(Program* program, c10::Device device, bool graphs)
      : program_(program),
        device_(device),
        graphs_(graphs),
        streams_(device.type()),
        upload_(streams_.getStreamFromGlobalPool(device)),
        compute_(streams_.getStreamFromGlobalPool(device)),
        download_(streams_.getStreamFromGlobalPool(device)) {}

  std::unique_ptr<thd_result> run(const Batch& batch) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const at::Tensor bytes = upload(batch);
      const c10::StreamGuard on(compute_);
      return download(compute(bytes));
    });
  }

 private:
  at::Tensor upload(const Batch& batch) {
    const int64_t size = batch.height * batch.width * kRgb;
    const at::Tensor pinned = at::empty({batch.count, batch.height, batch.width, kRgb},
                                        at::TensorOptions(at::kByte).pinned_memory(true));
    for (int64_t i = 0; i < batch.count; i++) {
      std::memcpy(pinned.mutable_data_ptr<uint8_t>() + i * size, batch.pictures[i], size);
    }
    const c10::StreamGuard on(upload_);
    at::Tensor bytes = pinned.to(device_, /*non_blocking=*/true);
    follow(upload_, compute_);
    bytes.record_stream(compute_);
    return bytes;
  }

  // Bytes NHWC to bytes NHWC on the compute stream.
  at::Tensor compute(const at::Tensor& bytes) {
#if THD_GRAPHS
    if (graphs_) return compute_by_graph(bytes);
#endif
    return translated(bytes);
  }

#if THD_GRAPHS
  at::Tensor compute_by_graph(const at::Tensor& bytes) {
    // TorchScript watches the first run of a shape and compiles in the second; neither can be captured.
    constexpr int kRunsToWarm = 2;
    Shape& shape = shapes_[{bytes.size(0), bytes.size(1), bytes.size(2)}];
    if (shape.runs < kRunsToWarm || shape.refused) {
      shape.runs++;
      return translated(bytes);
    }
    if (shape.graph == nullptr) {
      try {
        shape.graph =
            std::make_unique<Captured>(bytes, compute_, [&](const at::Tensor& input) { return translated(input); });
      } catch (const c10::Error&) {
        shape.refused = true;  // it does what no graph can hold, such as waiting for a value
        return translated(bytes);
      }
    }
    follow(download_, compute_);  // the output is written anew, so the last one must have left it
    return shape.graph->replay(bytes);
  }
#endif

  at::Tensor translated(const at::Tensor& bytes) {
    // Seen as NCHW these are channels-last strides, which the conversion keeps; convolutions in tensor cores want them.
    const at::Tensor input = bytes.permute({0, 3, 1, 2}).to(at::kFloat).div_(255);
    const at::Tensor output = program_->run(input);
    require_pictures(output, bytes.size(0));
    // A number that is none compares as false, and so becomes 0.
    const at::Tensor values = output.to(at::kFloat).nan_to_num(0).clamp_(0, 1).mul_(255);
    return values.to(at::kByte).permute({0, 2, 3, 1}).contiguous();
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
  [[maybe_unused]] bool graphs_;
  c10::impl::VirtualGuardImpl streams_;
  c10::Stream upload_;
  c10::Stream compute_;
  c10::Stream download_;
#if THD_GRAPHS
  struct Shape {
    int runs = 0;
    bool refused = false;
    std::unique_ptr<Captured> graph;
  };
  std::map<std::array<int64_t, 3>, Shape> shapes_;  // by count, height and width
#endif
};

}  // namespace

std::unique_ptr<PictureRunner> make_device_runner(Program* program, c10::Device device, bool graphs) {
  if (graphs && THD_GRAPHS == 0) {
    throw Failure(THD_ERROR_DEVICE, "the C++ interface of this LibTorch has no graphs; take a newer one");
  }
  return std::make_unique<DeviceRunner>(program, device, graphs);
}

}  // namespace thd
