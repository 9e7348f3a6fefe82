// Runs batches of images through a program: uint8 pixels in, uint8 pixels out.
#ifndef TORCHHERD_SRC_IMAGES_H
#define TORCHHERD_SRC_IMAGES_H

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "inputs.h"
#include "program.h"
#include "torchherd.h"

// The output of a batch.
struct thd_result {
  at::Tensor tensor;  // in host memory, contiguous; for images float32 NCHW or uint8 NHWC
  bool bgr = false;   // the order of three float32 channels; uint8 channels are always RGB
  float half = 0;     // what is added to a float32 value in 0..255 before it is cut off
  // Recorded after the copy from the device; until then the tensor's content is undefined.
  std::optional<c10::Event> arrived = std::nullopt;
};

namespace thd {

// Runs batches through a program, one after the other. The program must outlive it.
class ImageRunner {
 public:
  ImageRunner() = default;
  virtual ~ImageRunner() = default;
  ImageRunner(const ImageRunner&) = delete;
  ImageRunner& operator=(const ImageRunner&) = delete;

  // Returns the output as images: one for each of the batch. Throws Failure.
  virtual std::unique_ptr<thd_result> run(const Batch& batch) = 0;

  // Returns the program's unconverted output: NCHW on the program's device, ordered on the current stream. Throws
  // Failure.
  virtual at::Tensor forward(const Batch& batch) = 0;
};

// Makes a runner for the CPU. It converts pixels by this library's code (pixels.h), and run returns when all is done.
std::unique_ptr<ImageRunner> make_host_runner(Program* program, const thd_values& values, Inputs inputs);

// Makes a runner for a device with streams. It copies bytes from pinned memory on a stream of their own and converts
// them to floats on the device, and run returns when the work is queued. With graphs, each batch shape is recorded once
// it has warmed up, and then replayed. Throws Failure(THD_ERROR_DEVICE) if graphs aren't available.
std::unique_ptr<ImageRunner> make_device_runner(Program* program, c10::Device device, const thd_values& values,
                                                Inputs inputs, bool graphs);

// Returns the shape {count, channels, height, width} of a result of images.
std::array<int64_t, 4> image_shape(const thd_result& result);

// Waits for the result and writes image i to images[i] (height*width*channels bytes). From any thread.
void read_images(const thd_result& result, uint8_t* const* images);

}  // namespace thd

#endif
