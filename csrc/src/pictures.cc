#include "pictures.h"

#include <ATen/ops/empty.h>

#include <chrono>
#include <cstring>
#include <sstream>
#include <thread>

#include "pixels.h"
#include "translate.h"

namespace thd {
namespace {

class HostRunner : public PictureRunner {
 public:
  explicit HostRunner(Program* program) : program_(program) {}

  std::unique_ptr<thd_result> run(const Batch& batch) override {
    at::Tensor output = program_->run(stack(batch));
    require_pictures(output, batch.count);
    output = translate(THD_ERROR_FORWARD, "forward: ", [&] { return output.to(at::kFloat).contiguous(); });
    return std::make_unique<thd_result>(thd_result{.tensor = std::move(output)});
  }

 private:
  static at::Tensor stack(const Batch& batch) {
    const int64_t plane = batch.height * batch.width;
    at::Tensor stacked = at::empty({batch.count, kRgb, batch.height, batch.width}, at::kFloat);
    auto* values = stacked.mutable_data_ptr<float>();
    for (int64_t i = 0; i < batch.count; i++) {
      pixels_to_planes(batch.pictures[i], plane, values + i * kRgb * plane);
    }
    return stacked;
  }

  Program* program_;
};

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

// CUDA's own way to wait for an event of LibTorch's spins, on a core that could decode pictures meanwhile.
void wait_for(const c10::Event& event) {
  constexpr std::chrono::microseconds kPause(50);
  while (!event.query()) std::this_thread::sleep_for(kPause);
}

bool is_pixels(const at::Tensor& tensor) { return tensor.scalar_type() == at::kByte; }

}  // namespace

std::unique_ptr<PictureRunner> make_host_runner(Program* program) {
  return std::make_unique<HostRunner>(program);
}

void require_pictures(const at::Tensor& output, int64_t count) {
  if (output.dim() == 4 && output.size(0) == count && (output.size(1) == 1 || output.size(1) == kRgb) &&
      output.numel() > 0 && at::isFloatingType(output.scalar_type())) {
    return;
  }
  const std::string wanted = std::to_string(count);
  throw Failure(THD_ERROR_OUTPUT, std::string("the module answered with ") +
                                      c10::toString(output.scalar_type()) + " " + shape_text(output.sizes()) +
                                      "; a batch of " + wanted + " pictures needs floating point [" + wanted +
                                      ", 1 or 3, height, width]");
}

std::array<int64_t, 4> picture_shape(const thd_result& result) {
  const at::Tensor& t = result.tensor;
  if (is_pixels(t)) return {t.size(0), t.size(3), t.size(1), t.size(2)};
  return {t.size(0), t.size(1), t.size(2), t.size(3)};
}

void read_pictures(const thd_result& result, uint8_t* const* pictures) {
  if (result.arrived.has_value()) {
    translate(THD_ERROR_FORWARD, "forward: ", [&] { wait_for(*result.arrived); });
  }
  const auto [count, channels, height, width] = picture_shape(result);
  const int64_t size = channels * height * width;
  for (int64_t i = 0; i < count; i++) {
    if (is_pixels(result.tensor)) {
      std::memcpy(pictures[i], result.tensor.const_data_ptr<uint8_t>() + i * size, size);
    } else {
      planes_to_pixels(result.tensor.const_data_ptr<float>() + i * size, static_cast<int>(channels),
                       height * width, pictures[i]);
    }
  }
}

}  // namespace thd
