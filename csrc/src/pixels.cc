#include "pixels.h"

// Compiled for several instruction sets, the best one chosen when the library is loaded. Not under a
// sanitizer: the choice would run before the sanitizer is set up.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define THD_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define THD_CLONES
#endif

namespace thd {
namespace {

constexpr float kScale = 255.0F;

inline uint8_t to_byte(float value) {
  // Written so that NaN fails the first comparison and becomes 0.
  const float clamped = value > 0.0F ? (value < 1.0F ? value : 1.0F) : 0.0F;
  return static_cast<uint8_t>(static_cast<int32_t>(clamped * kScale));
}

}  // namespace

THD_CLONES void pixels_to_planes(const uint8_t* pixels, int64_t count, float* planes, int64_t plane) {
  float* red = planes;
  float* green = planes + plane;
  float* blue = planes + 2 * plane;
  for (int64_t i = 0; i < count; i++) {
    red[i] = static_cast<float>(pixels[3 * i]) / kScale;
    green[i] = static_cast<float>(pixels[3 * i + 1]) / kScale;
    blue[i] = static_cast<float>(pixels[3 * i + 2]) / kScale;
  }
}

THD_CLONES void planes_to_pixels(const float* planes, int64_t plane, int channels, int64_t count,
                                 uint8_t* pixels) {
  if (channels == 1) {
    for (int64_t i = 0; i < count; i++) pixels[i] = to_byte(planes[i]);
    return;
  }
  const float* red = planes;
  const float* green = planes + plane;
  const float* blue = planes + 2 * plane;
  for (int64_t i = 0; i < count; i++) {
    pixels[3 * i] = to_byte(red[i]);
    pixels[3 * i + 1] = to_byte(green[i]);
    pixels[3 * i + 2] = to_byte(blue[i]);
  }
}

}  // namespace thd
