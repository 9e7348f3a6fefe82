// Checks that the resize without vector instructions equals the library's, which uses them on most machines. This
// program is linked with its own copy of the resize, compiled with THD_PLAIN.
#include <cstdio>
#include <cstring>
#include <vector>

#include "resizer.h"
#include "torchherd.h"

namespace {

bool equal(thd_filter filter, int width, int height, int orientation, int out_width, int out_height) {
  std::vector<uint8_t> source(static_cast<size_t>(width) * height * thd::kChannels);
  uint32_t state = 1;
  for (uint8_t& byte : source) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(state >> 24);
  }
  std::vector<uint8_t> library(static_cast<size_t>(out_width) * out_height * thd::kChannels);
  std::vector<uint8_t> plain(library.size());
  thd_error* error = thd_resize(source.data(), width, height, thd::kChannels, orientation, filter, out_width,
                                out_height, library.data());
  if (error != nullptr) {
    std::fprintf(stderr, "%s\n", thd_error_message(error));
    thd_error_free(error);
    return false;
  }
  thd::Resizer resizer(width, height, orientation, filter, out_width, out_height, plain.data());
  const size_t stride = static_cast<size_t>(width) * thd::kChannels;
  for (int y = 0; y < height; y++) {
    std::memcpy(resizer.next(), &source[y * stride], stride);
    resizer.push();
  }
  return library == plain;
}

}  // namespace

int main() {
  constexpr int kSizes[][4] = {{37, 53, 228, 228}, {590, 480, 228, 228}, {1, 1, 16, 16},   {3000, 5, 61, 7},
                               {5, 3000, 64, 32},  {228, 500, 31, 67},   {64, 64, 64, 64}, {64, 33, 33, 64}};
  constexpr thd_filter kFilters[] = {THD_NEAREST, THD_LANCZOS, THD_BILINEAR, THD_BICUBIC, THD_BOX, THD_HAMMING};
  int failures = 0;
  for (const thd_filter filter : kFilters) {
    for (const auto& [width, height, out_width, out_height] : kSizes) {
      for (int orientation = 1; orientation <= 8; orientation++) {
        if (equal(filter, width, height, orientation, out_width, out_height)) continue;
        std::fprintf(stderr, "filter %d, %dx%d, orientation %d, to %dx%d: the plain version differs\n", filter,
                     width, height, orientation, out_width, out_height);
        failures++;
      }
    }
  }
  return failures == 0 ? 0 : 1;
}
