// Measures thd_resize and ATen's antialiased bilinear resize of uint8 images alternately, on one thread, and prints the
// medians of the times and of their ratio. `make bench-resize` runs it.
#include <ATen/Parallel.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/randint.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

#include "torchherd.h"

namespace {

constexpr int kSide = 228;
constexpr int kRounds = 61;

double time_once(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

int main() {
  at::set_num_threads(1);
  constexpr int kSizes[][2] = {{590, 480}, {1500, 1220}, {4000, 3000}, {100, 80}};
  std::printf("%12s %10s %10s %6s\n", "image", "ATen, us", "ours, us", "ratio");
  for (const auto& [width, height] : kSizes) {
    const at::Tensor pixels = at::randint(0, 256, {1, height, width, 3}, at::kByte);
    const at::Tensor planes = pixels.permute({0, 3, 1, 2});
    std::vector<uint8_t> out(size_t{kSide} * kSide * 3);
    std::vector<double> aten;
    std::vector<double> ours;
    std::vector<double> ratios;
    for (int round = 0; round < kRounds; round++) {
      aten.push_back(time_once([&] { at::_upsample_bilinear2d_aa(planes, {kSide, kSide}, false); }));
      ours.push_back(time_once([&] {
        thd_error_free(thd_resize(pixels.const_data_ptr<uint8_t>(), width, height, 3, 1, THD_BILINEAR, kSide,
                                  kSide, out.data()));
      }));
      ratios.push_back(ours.back() / aten.back());
    }
    std::printf("%6dx%-5d %10.0f %10.0f %6.2f\n", width, height, median(aten), median(ours), median(ratios));
  }
  return 0;
}
