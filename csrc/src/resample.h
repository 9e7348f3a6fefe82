// Resizes along one axis, row by row, by Pillow's filters with Pillow's fixed-point arithmetic.
//
// Each stage resizes along one axis and rounds to uint8. resizer.h combines two of them.
#ifndef TORCHHERD_SRC_RESAMPLE_H
#define TORCHHERD_SRC_RESAMPLE_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "torchherd.h"

namespace thd {

constexpr int kChannels = 3;
// Bytes after the end of a row that the stages may read and write, since they process whole vectors.
constexpr int kRowPadding = 64;
// The largest number of rows that RowResampler processes together.
constexpr int kRowsAtOnce = 4;

// The weights of one axis: output i is the sum over k of weight[i][k] * input[start[i] + k].
//
// The arithmetic is that of Pillow's ImagingResample for 8-bit images. The filter is stretched by max(scale, 1) and
// centered at (i + 0.5) * scale. Weights are normalized as double, then rounded to 22 fraction bits. Nearest is one tap
// of full weight, at the position of Pillow's ImagingScaleAffine.
class Weights {
 public:
  // in, out: sizes of the axis, at least 1. mirrored: the axis is reversed in the source.
  Weights(int in, int out, thd_filter filter, bool mirrored);

  // Returns the largest number of taps that an output has.
  static int taps_of(int in, int out, thd_filter filter);

  int outputs() const { return static_cast<int>(start_.size()); }
  // Entries are in ascending order of start; target(entry) is the output of an entry.
  int start(int entry) const { return start_[entry]; }
  int count(int entry) const { return count_[entry]; }
  int target(int entry) const { return mirrored_ ? outputs() - 1 - entry : entry; }
  // Returns the taps() weights of an entry, with zeros after count(entry).
  const int32_t* weights(int entry) const { return &weights_[static_cast<size_t>(entry) * taps_]; }
  int taps() const { return taps_; }
  // Reports whether the axis keeps its size: one tap of full weight per pixel.
  bool identity() const { return identity_; }

 private:
  // Sets an entry with one tap. source: the source pixel, counted in the target's direction.
  void set_single(int entry, int source, int in);
  // Sets an entry with the filter's taps. raw: scratch memory for taps() weights.
  void set_filtered(int entry, int in, double scale, thd_filter filter, double* raw);

  bool mirrored_;
  bool identity_;
  int taps_ = 1;
  std::vector<int> start_;
  std::vector<int> count_;
  std::vector<int32_t> weights_;
};

// Resizes rows of RGB pixels horizontally.
class RowResampler {
 public:
  RowResampler(int in, int out, thd_filter filter, bool mirrored);
  // Returns the number of bytes that a RowResampler allocates at most.
  static int64_t memory(int in, int out, thd_filter filter);
  // Resizes one row. Both rows are followed by kRowPadding bytes.
  void run(const uint8_t* in, uint8_t* out) const;
  // Resizes 1 to kRowsAtOnce rows.
  void run(const uint8_t* const* in, uint8_t* const* out, int rows) const;

 private:
  Weights weights_;
  bool copy_;                    // rows stay the same
  bool wide_;                    // use the AVX2 kernel
  std::vector<int16_t> spread_;  // the weights in the layout of the AVX2 kernel
};

// Resizes an image vertically. It takes source rows in their order and emits each target row as soon as its last source
// row is there. It stores only the rows that one target row spans.
class ColumnResampler {
 public:
  // in, out: the number of source and target rows. values: the number of bytes in a row.
  ColumnResampler(int in, int out, thd_filter filter, bool mirrored, int values);
  // Returns the number of bytes that a ColumnResampler allocates at most.
  static int64_t memory(int in, int out, thd_filter filter, int values);

  // Returns the memory for the next source row, or for the one `ahead` (below kRowsAtOnce) rows later. It has room for
  // the row's values and kRowPadding bytes.
  uint8_t* next(int ahead = 0) { return slot(position_ + ahead); }

  // Takes the row that was written to next(), and calls emit(target_row_index, row) for each target row that it
  // completes. That row has kRowPadding readable bytes after its end and is valid until emit returns.
  template <typename Emit>
  void push(Emit&& emit) {
    const int last = position_++;
    if (weights_.identity()) {
      emit(weights_.target(last), slot(last));
      return;
    }
    for (; entry_ < weights_.outputs() && weights_.start(entry_) + weights_.count(entry_) == position_;
         entry_++) {
      combine();
      emit(weights_.target(entry_), out_.data());
    }
  }

 private:
  uint8_t* slot(int row) {
    return &ring_[static_cast<size_t>(row % ring_rows_) * (static_cast<size_t>(values_) + kRowPadding)];
  }
  void combine();

  Weights weights_;
  int values_;
  int position_ = 0;  // the number of source rows taken
  int entry_ = 0;     // the next target row to complete
  int ring_rows_;
  std::vector<uint8_t> ring_;
  std::vector<const uint8_t*> window_;
  std::vector<uint8_t> out_;
};

}  // namespace thd

#endif
