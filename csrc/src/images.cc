#include "images.h"

#include <ATen/ops/empty.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "output.h"
#include "pixels.h"
#include "translate.h"
#include "values.h"

namespace thd {
namespace {

class HostRunner : public ImageRunner {
 public:
  HostRunner(Program* program, const thd_values& values, Inputs inputs)
      : program_(program),
        channels_(values.channels),
        normalization_(values, c10::kCPU),
        output_(values, c10::kCPU),
        inputs_(std::move(inputs)) {}

  std::unique_ptr<thd_result> run(const Batch& batch) override {
    at::Tensor output = forward(batch);
    output = translate(THD_ERROR_FORWARD, "forward: ", [&] {
      return output_.fits_planes(output) ? output_.planes(output) : output_.bytes(output);
    });
    return std::make_unique<thd_result>(
        thd_result{.tensor = std::move(output), .bgr = channels_ == THD_BGR, .half = output_.half()});
  }

  at::Tensor forward(const Batch& batch) override {
    const at::Tensor images = stack(batch);
    const at::Tensor output = inputs_.run(program_, images, inputs_.convert(inputs_.stack(batch)));
    return translate(THD_ERROR_FORWARD, "forward: ", [&] { return output_.arrange(output, batch.count); });
  }

 private:
  at::Tensor stack(const Batch& batch) const {
    const int64_t plane = batch.height * batch.width;
    const int64_t channels = channels_of(channels_);
    at::Tensor stacked = at::empty({batch.count, channels, batch.height, batch.width}, at::kFloat);
    auto* values = stacked.mutable_data_ptr<float>();
    for (int64_t i = 0; i < batch.count; i++, values += channels * plane) {
      switch (channels_) {
        case THD_RGB:
          pixels_to_planes(batch.images[i], plane, {values, values + plane, values + 2 * plane});
          break;
        case THD_BGR:
          pixels_to_planes(batch.images[i], plane, {values + 2 * plane, values + plane, values});
          break;
        case THD_GRAY:
          pixels_to_gray_plane(batch.images[i], plane, values);
          break;
        case THD_LIGHTNESS:
          pixels_to_lightness_plane(batch.images[i], plane, values);
          break;
      }
    }
    normalization_.apply(stacked);
    return stacked;
  }

  Program* program_;
  thd_channels channels_;
  Normalization normalization_;
  Output output_;
  Inputs inputs_;
};

// Waits for an event with pauses. LibTorch's own wait on CUDA spins, on a core that could decode images.
void wait_for(const c10::Event& event) {
  constexpr std::chrono::microseconds kPause(50);
  while (!event.query()) std::this_thread::sleep_for(kPause);
}

bool is_pixels(const at::Tensor& tensor) { return tensor.scalar_type() == at::kByte; }

}  // namespace

std::unique_ptr<ImageRunner> make_host_runner(Program* program, const thd_values& values, Inputs inputs) {
  return std::make_unique<HostRunner>(program, values, std::move(inputs));
}

std::array<int64_t, 4> image_shape(const thd_result& result) {
  const at::Tensor& t = result.tensor;
  if (is_pixels(t)) return {t.size(0), t.size(3), t.size(1), t.size(2)};
  return {t.size(0), t.size(1), t.size(2), t.size(3)};
}

void read_images(const thd_result& result, uint8_t* const* images) {
  if (result.arrived.has_value()) {
    translate(THD_ERROR_FORWARD, "forward: ", [&] { wait_for(*result.arrived); });
  }
  const auto [count, channels, height, width] = image_shape(result);
  const int64_t plane = height * width;
  const int64_t size = channels * plane;
  for (int64_t i = 0; i < count; i++) {
    if (is_pixels(result.tensor)) {
      std::memcpy(images[i], result.tensor.const_data_ptr<uint8_t>() + i * size, size);
      continue;
    }
    const auto* values = result.tensor.const_data_ptr<float>() + i * size;
    if (channels == 1) {
      plane_to_pixels(values, plane, result.half, images[i]);
    } else if (result.bgr) {
      planes_to_pixels({values + 2 * plane, values + plane, values}, plane, result.half, images[i]);
    } else {
      planes_to_pixels({values, values + plane, values + 2 * plane}, plane, result.half, images[i]);
    }
  }
}

}  // namespace thd
