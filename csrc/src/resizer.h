// Resizes and turns a picture while its rows come in.
//
// A picture is resized by two one-dimensional passes that each round to uint8. Both are written here as
// stages that rows flow through, so that a picture is decoded, resized and turned while a few of its rows are
// in the cache, and its pixels at full size are never held:
//
//     source row -> RowResampler -> ColumnResampler -> target row, or column when the turn swaps the axes
//     source row -> ColumnResampler -> RowResampler -> likewise
//
// Because each pass rounds, their order matters to the last bit. Resizer has the rule.
#ifndef TORCHHERD_SRC_RESIZER_H
#define TORCHHERD_SRC_RESIZER_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "resample.h"

namespace thd {

// Throws Failure(THD_ERROR_INVALID_ARGUMENT) unless a Resizer can be made with these.
void require_target(int orientation, thd_filter filter, int width, int height, const uint8_t* pixels);

// Whether the turn by an EXIF orientation makes rows columns.
bool swaps_axes(int orientation);

// Both passes and the turn: rows of the source in, the finished picture out.
class Resizer {
 public:
  // source_width, source_height: as stored. orientation: EXIF's, 1 to 8. width, height: of the turned
  // picture. pixels: width*height*3 bytes, borrowed as long as the Resizer lives.
  Resizer(int source_width, int source_height, int orientation, thd_filter filter, int width, int height,
          uint8_t* pixels);

  // Where the next source row belongs: room for source_width pixels.
  uint8_t* next() {
    if (as_it_is_) return pixels_ + static_cast<size_t>(position_) * width_ * kChannels;
    return down_first_ ? down_.next() : &rows_[row_size_ * held_];
  }
  // Takes the row written to next().
  void push();

 private:
  // Puts a finished row where it belongs in the turned picture.
  void store(int index, const uint8_t* row);

  bool as_it_is_;    // neither another size nor a turn: rows go to where they will stay
  bool sideways_;    // the stored rows become the turned picture's columns
  bool down_first_;  // the pass down the stored columns comes before the one along the stored rows
  int width_;
  int height_;
  uint8_t* pixels_;
  RowResampler along_;
  ColumnResampler down_;
  int source_height_;
  int position_ = 0;  // source rows taken so far
  int held_ = 0;      // rows that wait for others, to go into along_ together
  size_t row_size_;
  std::vector<uint8_t> rows_;  // what goes into along_, or, with down_first_, the row that comes out of it
};

}  // namespace thd

#endif
