// Resizes an image and applies its orientation, row by row.
//
// An image is resized by two one-dimensional passes, each of which rounds to uint8. The passes are stages that process
// one row after another. So an image is decoded, resized and oriented while a few of its rows are in the cache, and the
// pixels of the full size are never stored:
//
//     source row -> RowResampler -> ColumnResampler -> target row, or target column if the orientation swaps the axes
//     source row -> ColumnResampler -> RowResampler -> target row or target column
//
// Each pass rounds, so their order matters to the last bit; see columns_first in resizer.cc.
#ifndef TORCHHERD_SRC_RESIZER_H
#define TORCHHERD_SRC_RESIZER_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "resample.h"

namespace thd {

// Throws Failure(THD_ERROR_INVALID_ARGUMENT) unless a Resizer can be made with these arguments.
void require_target(int orientation, thd_filter filter, int width, int height);
// The same, with the memory of the target.
void require_target(int orientation, thd_filter filter, int width, int height, const uint8_t* pixels);

// Reports whether an EXIF orientation makes rows columns.
bool swaps_axes(int orientation);

// Takes the rows of the source and writes the oriented, resized image.
class Resizer {
 public:
  // source_width, source_height: the stored size. orientation: an EXIF orientation, 1 to 8. width, height: the size of
  // the oriented image. pixels: width*height*3 bytes, which must outlive the Resizer.
  Resizer(int source_width, int source_height, int orientation, thd_filter filter, int width, int height,
          uint8_t* pixels);

  // Returns what a Resizer with these arguments needs. Its struct_size is 0.
  static thd_resize_cost cost(int source_width, int source_height, int orientation, thd_filter filter,
                              int width, int height);

  // Reports whether `rows` more rows may be pushed.
  bool expects(int rows) const { return rows <= source_height_ - position_; }
  // Replaces the target, with the rows written so far in it.
  void write_to(uint8_t* pixels) { pixels_ = pixels; }

  // Returns the memory for the next source row, source_width pixels.
  uint8_t* next() {
    if (unchanged_) return pixels_ + static_cast<size_t>(position_) * width_ * kChannels;
    return down_first_ ? down_.next() : &rows_[row_size_ * held_];
  }
  // Takes the row that was written to next().
  void push();

 private:
  // Stores a finished row as a row or column of the oriented image.
  void store(int index, const uint8_t* row);

  bool unchanged_;   // size and orientation stay the same, so rows are written directly to pixels_
  bool transposed_;  // stored rows become columns of the oriented image
  bool down_first_;  // the pass along the stored columns precedes the one along the stored rows
  int width_;
  int height_;
  uint8_t* pixels_;
  RowResampler along_;
  ColumnResampler down_;
  int source_height_;
  int position_ = 0;  // the number of source rows taken
  int held_ = 0;      // the number of rows that wait until along_ can process several together
  size_t row_size_;
  std::vector<uint8_t> rows_;  // the input of along_; with down_first_, its output
};

}  // namespace thd

#endif
