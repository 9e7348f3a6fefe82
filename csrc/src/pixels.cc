#include "pixels.h"

#include <cmath>

#include "cpu.h"

// Compiles a function for several instruction sets, of which the best is selected when the library is loaded. Not with
// a sanitizer, since the selection runs before the sanitizer is initialized.
#if THD_AVX2 && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define THD_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define THD_CLONES
#endif

namespace thd {
namespace {

constexpr float kScale = 255.0F;

inline uint8_t to_byte(float value, float half) {
  // NaN fails the first comparison and becomes 0.
  const float clamped = value > 0.0F ? (value < 1.0F ? value : 1.0F) : 0.0F;
  return static_cast<uint8_t>(static_cast<int32_t>(clamped * kScale + half));
}

// Converts the pixels from `begin` on.
void interleave_plain(const std::array<const float*, 3>& planes, int64_t begin, int64_t count, float half,
                      uint8_t* pixels) {
  for (int64_t i = begin; i < count; i++) {
    for (int64_t c = 0; c < 3; c++) pixels[3 * i + c] = to_byte(planes[c][i], half);
  }
}

inline uint8_t gray_of(const uint8_t* pixel) {
  return static_cast<uint8_t>((19595U * pixel[0] + 38470U * pixel[1] + 7471U * pixel[2] + 32768U) >> 16);
}

// The inverse of sRGB's transfer function, for each byte.
const std::array<float, 256>& linear_of_byte() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> made{};
    for (size_t i = 0; i < made.size(); i++) {
      const double v = static_cast<double>(i) / 255;
      made[i] = static_cast<float>(v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4));
    }
    return made;
  }();
  return table;
}

#if THD_AVX2

constexpr int kLanes = 8;
constexpr int kStep = 16;  // pixels per step of the AVX2 version

// Converts eight values to integers from 0 to 255, with the arithmetic of to_byte.
__attribute__((target("avx2"))) inline __m256i to_bytes(const float* values, __m256 half) {
  // maxps returns its second operand if the first is NaN.
  const __m256 positive = _mm256_max_ps(_mm256_loadu_ps(values), _mm256_setzero_ps());
  const __m256 clamped = _mm256_min_ps(positive, _mm256_set1_ps(1.0F));
  return _mm256_cvttps_epi32(_mm256_add_ps(_mm256_mul_ps(clamped, _mm256_set1_ps(kScale)), half));
}

__attribute__((target("avx2"))) inline __m128i to_sixteen_bytes(const float* values, __m256 half) {
  const __m256i words = _mm256_packs_epi32(to_bytes(values, half), to_bytes(values + kLanes, half));
  // Packing works within 128-bit lanes, so the quarters of the register are out of order.
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0b11'01'10'00);
  return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
}

// Shuffle masks that distribute the sixteen bytes of channel c over the three vectors of sixteen RGB pixels. Byte i of
// vector v is pixel (16 v + i) / 3 if its channel is c, and else zero (an index with the top bit set).
struct Masks {
  alignas(16) uint8_t of[3][3][16];
};
constexpr Masks make_masks() {
  Masks masks{};
  for (int v = 0; v < 3; v++) {
    for (int c = 0; c < 3; c++) {
      for (int i = 0; i < 16; i++) {
        const int at = 16 * v + i;
        masks.of[v][c][i] = static_cast<uint8_t>(at % 3 == c ? at / 3 : 0x80);
      }
    }
  }
  return masks;
}
constexpr Masks kMasks = make_masks();

__attribute__((target("avx2"))) void interleave_avx2(const std::array<const float*, 3>& planes, int64_t count,
                                                     float half, uint8_t* pixels) {
  const __m256 halves = _mm256_set1_ps(half);
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const __m128i channel[3] = {to_sixteen_bytes(planes[0] + i, halves),
                                to_sixteen_bytes(planes[1] + i, halves),
                                to_sixteen_bytes(planes[2] + i, halves)};
    for (int v = 0; v < 3; v++) {
      __m128i out = _mm_setzero_si128();
      for (int c = 0; c < 3; c++) {
        const auto* mask = reinterpret_cast<const __m128i*>(kMasks.of[v][c]);
        out = _mm_or_si128(out, _mm_shuffle_epi8(channel[c], _mm_load_si128(mask)));
      }
      _mm_storeu_si128(reinterpret_cast<__m128i*>(pixels + 3 * i) + v, out);
    }
  }
  interleave_plain(planes, i, count, half, pixels);
}

#endif

}  // namespace

THD_CLONES void pixels_to_planes(const uint8_t* pixels, int64_t count, const std::array<float*, 3>& planes) {
  float* __restrict first = planes[0];
  float* __restrict second = planes[1];
  float* __restrict third = planes[2];
  for (int64_t i = 0; i < count; i++) {
    first[i] = static_cast<float>(pixels[3 * i]) / kScale;
    second[i] = static_cast<float>(pixels[3 * i + 1]) / kScale;
    third[i] = static_cast<float>(pixels[3 * i + 2]) / kScale;
  }
}

THD_CLONES void pixels_to_gray(const uint8_t* pixels, int64_t count, uint8_t* gray) {
  for (int64_t i = 0; i < count; i++) gray[i] = gray_of(pixels + 3 * i);
}

THD_CLONES void pixels_to_gray_plane(const uint8_t* pixels, int64_t count, float* plane) {
  for (int64_t i = 0; i < count; i++) plane[i] = static_cast<float>(gray_of(pixels + 3 * i)) / kScale;
}

void pixels_to_lightness_plane(const uint8_t* pixels, int64_t count, float* plane) {
  const std::array<float, 256>& linear = linear_of_byte();
  for (int64_t i = 0; i < count; i++, pixels += 3) {
    const float y =
        0.212671F * linear[pixels[0]] + 0.715160F * linear[pixels[1]] + 0.072169F * linear[pixels[2]];
    // CIE's f(y) = y^(1/3) or, for dark colors, 7.787 y + 16/116, and L = 116 f(y) - 16.
    const float f = y > 0.008856F ? std::cbrt(y) : 7.787F * y + 16.0F / 116.0F;
    plane[i] = 1.16F * f - 0.16F;
  }
}

void planes_to_pixels(const std::array<const float*, 3>& planes, int64_t count, float half, uint8_t* pixels) {
#if THD_AVX2
  if (has_avx2()) {
    interleave_avx2(planes, count, half, pixels);
    return;
  }
#endif
  interleave_plain(planes, 0, count, half, pixels);
}

void plane_to_pixels(const float* plane, int64_t count, float half, uint8_t* pixels) {
  for (int64_t i = 0; i < count; i++) pixels[i] = to_byte(plane[i], half);
}

}  // namespace thd
