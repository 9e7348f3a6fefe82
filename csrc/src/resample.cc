#include "resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "cpu.h"

namespace thd {
namespace {

constexpr int kWeightBits = 22;
constexpr int32_t kHalf = 1 << (kWeightBits - 1);
// The AVX2 kernel multiplies 16-bit integers, so each weight is split into two at this bit.
constexpr int kSplitBits = kWeightBits / 2;
constexpr int kGroup = 4;  // taps per step of the AVX2 kernel

// The filters as functions of the distance from their center. They equal Pillow's to the last bit of a double.

double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double bicubic(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1) return ((kA + 2) * x - (kA + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * kA;
  return 0;
}

double hamming(double x) {
  x = std::abs(x);
  if (x == 0) return 1;
  if (x >= 1) return 0;
  x *= std::numbers::pi;
  return std::sin(x) / x * (0.54F + 0.46F * std::cos(x));
}

double filter_at(thd_filter filter, double x) {
  switch (filter) {
    case THD_NEAREST:
      break;
    case THD_LANCZOS:
      return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
    case THD_BILINEAR:
      return std::abs(x) < 1 ? 1 - std::abs(x) : 0;
    case THD_BICUBIC:
      return bicubic(x);
    case THD_BOX:
      return x > -0.5 && x <= 0.5 ? 1 : 0;
    case THD_HAMMING:
      return hamming(x);
  }
  return 0;
}

// Returns half of the filter's width before it is stretched.
double support_of(thd_filter filter) {
  switch (filter) {
    case THD_NEAREST:
      break;
    case THD_LANCZOS:
      return 3;
    case THD_BILINEAR:
    case THD_HAMMING:
      return 1;
    case THD_BICUBIC:
      return 2;
    case THD_BOX:
      return 0.5;
  }
  return 0;
}

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

void row_plain(const Weights& weights, const uint8_t* in, uint8_t* out) {
  for (int entry = 0; entry < weights.outputs(); entry++) {
    const uint8_t* pixel = in + static_cast<ptrdiff_t>(weights.start(entry)) * kChannels;
    const int32_t* weight = weights.weights(entry);
    int32_t sum[kChannels] = {kHalf, kHalf, kHalf};
    for (int k = 0; k < weights.count(entry); k++, pixel += kChannels) {
      for (int c = 0; c < kChannels; c++) sum[c] += weight[k] * pixel[c];
    }
    uint8_t* target = out + static_cast<ptrdiff_t>(weights.target(entry)) * kChannels;
    for (int c = 0; c < kChannels; c++) target[c] = to_byte(sum[c]);
  }
}

void combine_plain(const uint8_t* const* rows, const int32_t* weights, int count, int values, uint8_t* out) {
  for (int i = 0; i < values; i++) {
    int32_t sum = kHalf;
    for (int k = 0; k < count; k++) sum += weights[k] * rows[k][i];
    out[i] = to_byte(sum);
  }
}

#if THD_AVX2

// Processes 32 values per step, in four registers. The last step may pass the end of the row, by less than kRowPadding.
__attribute__((target("avx2"))) void combine_avx2(const uint8_t* const* rows, const int32_t* weights, int count,
                                                  int values, uint8_t* out) {
  constexpr int kLanes = 8;
  constexpr int kVectors = 4;
  static_assert(kLanes * kVectors <= kRowPadding);
  // Packing works within 128-bit lanes, so groups of four values are out of order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int begin = 0; begin < values; begin += kLanes * kVectors) {
    __m256i sum[kVectors];
    for (__m256i& s : sum) s = _mm256_set1_epi32(kHalf);
    for (int k = 0; k < count; k++) {
      const __m256i weight = _mm256_set1_epi32(weights[k]);
      for (int v = 0; v < kVectors; v++) {
        const auto* bytes = reinterpret_cast<const __m128i*>(rows[k] + begin + ptrdiff_t{kLanes} * v);
        const __m256i pixels = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes));
        sum[v] = _mm256_add_epi32(sum[v], _mm256_mullo_epi32(pixels, weight));
      }
    }
    for (__m256i& s : sum) s = _mm256_srai_epi32(s, kWeightBits);
    const __m256i packed =
        _mm256_packus_epi16(_mm256_packs_epi32(sum[0], sum[1]), _mm256_packs_epi32(sum[2], sum[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + begin), _mm256_permutevar8x32_epi32(packed, order));
  }
}

// Writes a group of weights to a vector, as a pair per lane that is repeated for each channel: {0 1 0 1 0 1 - -} and
// {2 3 2 3 2 3 - -}. Returns the position of the next vector.
int16_t* spread_group(const int16_t (&weights)[kGroup], int16_t* vector) {
  constexpr int kHalfVector = 8;
  for (int pair = 0; pair < kGroup; pair += 2, vector += kHalfVector) {
    for (int i = 0; i < 2 * kChannels; i++) vector[i] = weights[pair + i % 2];
  }
  return vector;
}

// Returns the weights in the layout of rows_avx2, in the order of the outputs: for each group of four taps one vector
// with their high parts and one with their low parts, where weight = high * 2^kSplitBits + low and low is never
// negative.
std::vector<int16_t> spread_weights(const Weights& weights) {
  constexpr int kVector = 16;
  const int groups = (weights.taps() + kGroup - 1) / kGroup;
  std::vector<int16_t> spread(static_cast<size_t>(weights.outputs()) * groups * 2 * kVector);
  int16_t* next = spread.data();
  for (int output = 0; output < weights.outputs(); output++) {
    const int entry = weights.target(output);  // target is its own inverse
    for (int first = 0; first < groups * kGroup; first += kGroup) {
      int16_t high[kGroup] = {};
      int16_t low[kGroup] = {};
      for (int k = 0; k < std::min(kGroup, weights.count(entry) - first); k++) {
        const int32_t weight = weights.weights(entry)[first + k];
        high[k] = static_cast<int16_t>(weight >> kSplitBits);
        low[k] = static_cast<int16_t>(weight & ((1 << kSplitBits) - 1));
      }
      next = spread_group(low, spread_group(high, next));
    }
  }
  return spread;
}

// Processes four taps per step: the bytes of four pixels become pairs of 16-bit integers per channel, which vpmaddwd
// multiplies by a pair of weights and adds. Integer sums don't depend on their order, so the result equals that of
// row_plain. Several rows share the loads of the weights, which don't fit into the L1 cache for a large image. Each
// pixel is stored as four bytes, and the next pixel overwrites the fourth.
template <int kRows>
__attribute__((target("avx2"))) void rows_avx2(const Weights& weights, const int16_t* spread,
                                               const uint8_t* const* in, uint8_t* const* out) {
  const __m256i order = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const int groups = (weights.taps() + kGroup - 1) / kGroup;
  const auto* factors = reinterpret_cast<const __m256i*>(spread);
  for (int output = 0; output < weights.outputs(); output++, factors += ptrdiff_t{2} * groups) {
    const int entry = weights.target(output);
    ptrdiff_t at = static_cast<ptrdiff_t>(weights.start(entry)) * kChannels;
    __m256i high[kRows];
    __m256i low[kRows];
    for (int r = 0; r < kRows; r++) high[r] = low[r] = _mm256_setzero_si256();
    const int used = (weights.count(entry) + kGroup - 1) / kGroup;
    for (int group = 0; group < used; group++, at += ptrdiff_t{kGroup} * kChannels) {
      const __m256i high_weights = _mm256_loadu_si256(factors + ptrdiff_t{2} * group);
      const __m256i low_weights = _mm256_loadu_si256(factors + ptrdiff_t{2} * group + 1);
      for (int r = 0; r < kRows; r++) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in[r] + at));
        const __m256i values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), order);
        high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(values, high_weights));
        low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(values, low_weights));
      }
    }
    for (int r = 0; r < kRows; r++) {
      const __m256i both = _mm256_add_epi32(_mm256_slli_epi32(high[r], kSplitBits), low[r]);
      __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
      sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(kHalf)), kWeightBits);
      sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
      const int32_t rgb = _mm_cvtsi128_si32(sum);
      std::memcpy(out[r] + static_cast<ptrdiff_t>(output) * kChannels, &rgb, sizeof rgb);
    }
  }
}

#endif  // THD_AVX2

}  // namespace

int Weights::taps_of(int in, int out, thd_filter filter) {
  if (in == out || filter == THD_NEAREST) return 1;
  const double scale = static_cast<double>(in) / out;
  return static_cast<int>(std::ceil(support_of(filter) * std::max(scale, 1.0))) * 2 + 1;
}

Weights::Weights(int in, int out, thd_filter filter, bool mirrored)
    : mirrored_(mirrored), identity_(in == out), start_(out), count_(out) {
  const double scale = static_cast<double>(in) / out;
  if (identity_ || filter == THD_NEAREST) {
    weights_.assign(out, 1 << kWeightBits);
    // Accumulated as in Pillow: between two pixels, the last bit decides.
    double center = 0.5 * scale;
    for (int output = 0; output < out; output++, center += scale) {
      const int source = identity_ ? output : std::min(static_cast<int>(center), in - 1);
      set_single(target(output), source, in);  // target is its own inverse
    }
    return;
  }
  taps_ = taps_of(in, out, filter);
  weights_.assign(static_cast<size_t>(out) * taps_, 0);
  std::vector<double> raw(taps_);
  for (int entry = 0; entry < out; entry++) set_filtered(entry, in, scale, filter, raw.data());
}

void Weights::set_single(int entry, int source, int in) {
  start_[entry] = mirrored_ ? in - 1 - source : source;
  count_[entry] = 1;
}

void Weights::set_filtered(int entry, int in, double scale, thd_filter filter, double* raw) {
  const double stretch = std::max(scale, 1.0);
  const double support = support_of(filter) * stretch;  // half of the filter's width, in source pixels
  const double center = (target(entry) + 0.5) * scale;
  // NOLINTBEGIN(bugprone-incorrect-roundings): the rounding of Pillow
  const int first = std::max(static_cast<int>(center - support + 0.5), 0);
  const int count = std::min(static_cast<int>(center + support + 0.5), in) - first;
  double total = 0;
  for (int k = 0; k < count; k++) {
    raw[k] = filter_at(filter, (k + first - center + 0.5) * (1.0 / stretch));
    total += raw[k];
  }
  int32_t* weight = &weights_[static_cast<size_t>(entry) * taps_];
  for (int k = 0; k < count; k++) {
    const double scaled = (total == 0 ? raw[k] : raw[k] / total) * (1 << kWeightBits);
    weight[mirrored_ ? count - 1 - k : k] = static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  }
  // NOLINTEND(bugprone-incorrect-roundings)
  start_[entry] = mirrored_ ? in - first - count : first;
  count_[entry] = count;
}

namespace {

// Returns the number of bytes of Weights: start, count and weight of each output, and the scratch memory.
int64_t memory_of_weights(int in, int out, thd_filter filter) {
  const int64_t taps = Weights::taps_of(in, out, filter);
  return out * (taps + 2) * int64_t{sizeof(int32_t)} + taps * int64_t{sizeof(double)};
}

// The rows that a ColumnResampler stores. Callers write rows ahead of those that the next target row needs.
int stored_rows(int in, int taps) { return std::min(in, taps) + kRowsAtOnce - 1; }

}  // namespace

int64_t RowResampler::memory(int in, int out, thd_filter filter) {
  constexpr int64_t kSpreadGroup = 64;  // bytes; see spread_weights
  const int64_t groups = (Weights::taps_of(in, out, filter) + kGroup - 1) / kGroup;
  return memory_of_weights(in, out, filter) + out * groups * kSpreadGroup;
}

int64_t ColumnResampler::memory(int in, int out, thd_filter filter, int values) {
  const int taps = Weights::taps_of(in, out, filter);
  return memory_of_weights(in, out, filter) + (stored_rows(in, taps) + 1) * (int64_t{values} + kRowPadding) +
         taps * int64_t{sizeof(uint8_t*)};
}

RowResampler::RowResampler(int in, int out, thd_filter filter, bool mirrored)
    : weights_(in, out, filter, mirrored), copy_(in == out && !mirrored), wide_(has_avx2()) {
#if THD_AVX2
  if (wide_ && !copy_) spread_ = spread_weights(weights_);
#endif
}

void RowResampler::run(const uint8_t* const* in, uint8_t* const* out, int rows) const {
#if THD_AVX2
  if (wide_ && !copy_ && rows == kRowsAtOnce) {
    rows_avx2<kRowsAtOnce>(weights_, spread_.data(), in, out);
    return;
  }
#endif
  for (int r = 0; r < rows; r++) run(in[r], out[r]);
}

void RowResampler::run(const uint8_t* in, uint8_t* out) const {
  if (copy_) {
    std::memcpy(out, in, static_cast<size_t>(weights_.outputs()) * kChannels);
    return;
  }
#if THD_AVX2
  if (wide_) {
    rows_avx2<1>(weights_, spread_.data(), &in, &out);
    return;
  }
#endif
  row_plain(weights_, in, out);
}

ColumnResampler::ColumnResampler(int in, int out, thd_filter filter, bool mirrored, int values)
    : weights_(in, out, filter, mirrored),
      values_(values),
      ring_rows_(stored_rows(in, weights_.taps())),
      ring_(ring_rows_ * (static_cast<size_t>(values) + kRowPadding)),
      window_(weights_.taps()),
      out_(static_cast<size_t>(values) + kRowPadding) {}

void ColumnResampler::combine() {
  const int count = weights_.count(entry_);
  for (int k = 0; k < count; k++) window_[k] = slot(weights_.start(entry_) + k);
#if THD_AVX2
  if (has_avx2()) {
    combine_avx2(window_.data(), weights_.weights(entry_), count, values_, out_.data());
    return;
  }
#endif
  combine_plain(window_.data(), weights_.weights(entry_), count, values_, out_.data());
}

}  // namespace thd
