// The way of a batch of pictures through a program: uint8 pixels in, uint8 pixels out.
#ifndef TORCHHERD_SRC_PICTURES_H
#define TORCHHERD_SRC_PICTURES_H

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "program.h"
#include "torchherd.h"

// The answer to a batch.
struct thd_result {
  at::Tensor tensor;  // in host memory, contiguous; of pictures float32 NCHW or uint8 NHWC
  bool bgr = false;   // planes of three channels are in this order; bytes never are
  std::optional<c10::Event> arrived = std::nullopt;  // until then the tensor is on its way from the device
};

namespace thd {

constexpr int64_t kRgb = 3;  // channels of a batch's pictures, and of an answer in colour

struct Batch {
  const uint8_t* const* pictures;  // count of them, height*width*3 bytes each
  int64_t count;
  int64_t height;
  int64_t width;
};

// Takes batches through a program, one after the other. The program must outlive it.
class PictureRunner {
 public:
  PictureRunner() = default;
  virtual ~PictureRunner() = default;
  PictureRunner(const PictureRunner&) = delete;
  PictureRunner& operator=(const PictureRunner&) = delete;

  // The answer's tensor has the batch's count of pictures with 1 or 3 channels. Throws Failure.
  virtual std::unique_ptr<thd_result> run(const Batch& batch) = 0;

  // The program's own answer to a batch, as it is: floating point NCHW with 1 or 3 channels, on the program's device, for
  // the current stream. Throws Failure.
  virtual at::Tensor answer(const Batch& batch) = 0;
};

// For the CPU: conversions by own code (pixels.h), everything done when run returns.
std::unique_ptr<PictureRunner> make_host_runner(Program* program, const thd_values& values);

// For a device with streams: bytes are sent as they are, from pinned memory, on a stream of their own, and become
// floats on the device; run returns when the work is queued. With graphs, each batch's shape is captured when it has
// run often enough to be warm, and replayed from then on. Throws Failure(THD_ERROR_DEVICE) where graphs can't be made.
std::unique_ptr<PictureRunner> make_device_runner(Program* program, c10::Device device,
                                                  const thd_values& values, bool graphs);

// The shape {count, channels, height, width} of an answer of pictures.
std::array<int64_t, 4> picture_shape(const thd_result& result);

// Waits for the answer and writes picture i to pictures[i] (height*width*channels bytes). From any thread.
void read_pictures(const thd_result& result, uint8_t* const* pictures);

// Throws Failure(THD_ERROR_OUTPUT) unless a program's answer holds pictures for a batch of that count.
void require_pictures(const at::Tensor& output, int64_t count);

}  // namespace thd

#endif
