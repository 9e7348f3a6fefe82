#include "pixels.h"

#include "cpu.h"

// Compiled for several instruction sets, the best one chosen when the library is loaded. Not under a
// sanitizer: the choice would run before the sanitizer is set up.
#if THD_AVX2 && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
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

// From pixel `begin` on.
void interleave_plain(const std::array<const float*, 3>& planes, int64_t begin, int64_t count,
                      uint8_t* pixels) {
  for (int64_t i = begin; i < count; i++) {
    for (int64_t c = 0; c < 3; c++) pixels[3 * i + c] = to_byte(planes[c][i]);
  }
}

inline uint8_t gray_of(const uint8_t* pixel) {
  return static_cast<uint8_t>((19595U * pixel[0] + 38470U * pixel[1] + 7471U * pixel[2] + 32768U) >> 16);
}

#if THD_AVX2

constexpr int kLanes = 8;
constexpr int kStep = 16;  // pixels that the AVX2 version takes at a time

// Eight values as whole numbers 0 to 255, in to_byte's arithmetic.
__attribute__((target("avx2"))) inline __m256i to_bytes(const float* values) {
  // maxps answers with its second operand when the first is NaN.
  const __m256 positive = _mm256_max_ps(_mm256_loadu_ps(values), _mm256_setzero_ps());
  const __m256 clamped = _mm256_min_ps(positive, _mm256_set1_ps(1.0F));
  return _mm256_cvttps_epi32(_mm256_mul_ps(clamped, _mm256_set1_ps(kScale)));
}

__attribute__((target("avx2"))) inline __m128i to_sixteen_bytes(const float* values) {
  const __m256i words = _mm256_packs_epi32(to_bytes(values), to_bytes(values + kLanes));
  // Packing works within halves of registers; this puts the quarters in order.
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0b11'01'10'00);
  return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
}

// Where channel c's sixteen bytes go in the three vectors of sixteen RGB pixels: vector v's byte i is of pixel
// (16 v + i) / 3 if its channel is c, and left empty otherwise (an index with its top bit set).
struct Places {
  alignas(16) uint8_t of[3][3][16];
};
constexpr Places make_places() {
  Places places{};
  for (int v = 0; v < 3; v++) {
    for (int c = 0; c < 3; c++) {
      for (int i = 0; i < 16; i++) {
        const int at = 16 * v + i;
        places.of[v][c][i] = static_cast<uint8_t>(at % 3 == c ? at / 3 : 0x80);
      }
    }
  }
  return places;
}
constexpr Places kPlaces = make_places();

__attribute__((target("avx2"))) void interleave_avx2(const std::array<const float*, 3>& planes, int64_t count,
                                                     uint8_t* pixels) {
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const __m128i channel[3] = {to_sixteen_bytes(planes[0] + i), to_sixteen_bytes(planes[1] + i),
                                to_sixteen_bytes(planes[2] + i)};
    for (int v = 0; v < 3; v++) {
      __m128i out = _mm_setzero_si128();
      for (int c = 0; c < 3; c++) {
        const auto* place = reinterpret_cast<const __m128i*>(kPlaces.of[v][c]);
        out = _mm_or_si128(out, _mm_shuffle_epi8(channel[c], _mm_load_si128(place)));
      }
      _mm_storeu_si128(reinterpret_cast<__m128i*>(pixels + 3 * i) + v, out);
    }
  }
  interleave_plain(planes, i, count, pixels);
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

void planes_to_pixels(const std::array<const float*, 3>& planes, int64_t count, uint8_t* pixels) {
#if THD_AVX2
  if (has_avx2()) {
    interleave_avx2(planes, count, pixels);
    return;
  }
#endif
  interleave_plain(planes, 0, count, pixels);
}

void plane_to_pixels(const float* plane, int64_t count, uint8_t* pixels) {
  for (int64_t i = 0; i < count; i++) pixels[i] = to_byte(plane[i]);
}

}  // namespace thd
