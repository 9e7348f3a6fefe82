// Resize by Pillow's filters in its fixed-point arithmetic, along one axis, row by row.
//
// Each stage resizes along one axis and rounds to uint8; resizer.h puts two of them together.
#ifndef TORCHHERD_SRC_RESAMPLE_H
#define TORCHHERD_SRC_RESAMPLE_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "torchherd.h"

namespace thd {

constexpr int kChannels = 3;
// Bytes past a row's end that the stages may read and write, but never use: whole vectors are handled.
constexpr int kRowPadding = 64;
// Rows that RowResampler takes at a time when it can.
constexpr int kRowsAtOnce = 4;

// The weights of one axis: output i is the sum over k of weight[i][k] * input[start[i] + k].
//
// Source of the arithmetic: Pillow's ImagingResample for 8-bit pictures. The filter, stretched by max(scale, 1), lies
// around (i + 0.5) * scale; weights are normalised in double, then rounded to 22 bits after the point. Nearest is one tap
// of full weight, where Pillow's ImagingScaleAffine has it.
class Weights {
 public:
  // in, out: sizes of the axis, 1 or more. mirrored: the axis runs backwards in the source.
  Weights(int in, int out, thd_filter filter, bool mirrored);

  int outputs() const { return static_cast<int>(start_.size()); }
  // Entries are in ascending order of start; target says which output an entry is for.
  int start(int entry) const { return start_[entry]; }
  int count(int entry) const { return count_[entry]; }
  int target(int entry) const { return mirrored_ ? outputs() - 1 - entry : entry; }
  // taps() values for each entry, zeros after count(entry).
  const int32_t* weights(int entry) const { return &weights_[static_cast<size_t>(entry) * taps_]; }
  int taps() const { return taps_; }
  // One tap a pixel, each of full weight: this axis keeps its size.
  bool identity() const { return identity_; }

 private:
  // Entry's tap is the one pixel `source` of the source as seen from the target.
  void set_single(int entry, int source, int in);
  // raw: room for taps() weights.
  void set_filtered(int entry, int in, double scale, thd_filter filter, double* raw);

  bool mirrored_;
  bool identity_;
  int taps_ = 1;
  std::vector<int> start_;
  std::vector<int> count_;
  std::vector<int32_t> weights_;
};

// Resizes rows of RGB pixels along themselves.
class RowResampler {
 public:
  RowResampler(int in, int out, thd_filter filter, bool mirrored);
  // in: `in` pixels, out: `out` pixels, both with kRowPadding bytes more.
  void run(const uint8_t* in, uint8_t* out) const;
  // The same for 1 to kRowsAtOnce rows.
  void run(const uint8_t* const* in, uint8_t* const* out, int rows) const;

 private:
  Weights weights_;
  bool copy_;                    // nothing to do but copy
  bool wide_;                    // the AVX2 kernel is used
  std::vector<int16_t> spread_;  // weights as that kernel wants them
};

// Resizes a picture across its rows: takes the rows of the source in their order and hands out each row of
// the target as soon as its last source row has come. Holds only the rows that a target row spans.
class ColumnResampler {
 public:
  // in, out: number of rows before and after. values: bytes in a row.
  ColumnResampler(int in, int out, thd_filter filter, bool mirrored, int values);

  // Where the next source row belongs, or, with ahead (below kRowsAtOnce), one that comes later: room for its
  // values and kRowPadding more.
  uint8_t* next(int ahead = 0) { return slot(position_ + ahead); }

  // Takes the row written to next(); calls emit(target_row_index, row) for each row that it completes. The
  // row has kRowPadding readable bytes after its end and is valid until emit returns.
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
  int position_ = 0;  // source rows taken so far
  int entry_ = 0;     // the next target row to complete
  int ring_rows_;
  std::vector<uint8_t> ring_;
  std::vector<const uint8_t*> window_;
  std::vector<uint8_t> out_;
};

}  // namespace thd

#endif
