#include "resizer.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace thd {

void require_target(int orientation, thd_filter filter, int width, int height) {
  require(filter >= THD_NEAREST && filter <= THD_HAMMING, "unknown filter");
  require(orientation >= 1 && orientation <= 8, "orientation must be 1 to 8");
  require(width >= 1 && height >= 1, "width and height must be at least 1");
}

void require_target(int orientation, thd_filter filter, int width, int height, const uint8_t* pixels) {
  require_target(orientation, filter, width, height);
  require(pixels != nullptr, "pixels must not be NULL");
}

// An EXIF orientation states where the first row and the first column of the stored image belong. Orientations 5 to 8
// swap the axes. mirrors_x and mirrors_y report which axes of the oriented image are reversed in the stored one.
bool swaps_axes(int orientation) { return orientation >= 5; }

namespace {

bool mirrors_x(int orientation) {
  return orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
}
bool mirrors_y(int orientation) {
  return orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
}

// Reports whether the columns of the oriented image are resized before its rows. Pillow 13 does so if the height
// shrinks by more than twice as many pixels as the width. Earlier versions always resize the rows first.
bool columns_first(int source_width, int source_height, int width, int height) {
  return source_height > height && source_height - height > 2 * (source_width - width);
}

}  // namespace

// Stored rows run along the x axis of the oriented image, or along its y axis if the orientation swaps the axes.
Resizer::Resizer(int source_width, int source_height, int orientation, thd_filter filter, int width, int height,
                 uint8_t* pixels)
    : unchanged_(orientation == 1 && source_width == width && source_height == height),
      transposed_(swaps_axes(orientation)),
      down_first_(transposed_ ? !columns_first(source_height, source_width, width, height)
                              : columns_first(source_width, source_height, width, height)),
      width_(width),
      height_(height),
      pixels_(pixels),
      along_(source_width, transposed_ ? height : width, filter,
             transposed_ ? mirrors_y(orientation) : mirrors_x(orientation)),
      down_(source_height, transposed_ ? width : height, filter,
            transposed_ ? mirrors_x(orientation) : mirrors_y(orientation),
            kChannels * (down_first_ ? source_width : (transposed_ ? height : width))),
      source_height_(source_height),
      row_size_(static_cast<size_t>(std::max(source_width, transposed_ ? height : width)) * kChannels +
                kRowPadding),
      rows_(row_size_ * kRowsAtOnce) {}

thd_resize_cost Resizer::cost(int source_width, int source_height, int orientation, thd_filter filter,
                              int width, int height) {
  const bool transposed = swaps_axes(orientation);
  const int along_out = transposed ? height : width;
  const int down_out = transposed ? width : height;
  const bool down_first = transposed ? !columns_first(source_height, source_width, width, height)
                                     : columns_first(source_width, source_height, width, height);
  const int64_t along_taps = Weights::taps_of(source_width, along_out, filter);
  const int64_t down_taps = Weights::taps_of(source_height, down_out, filter);
  // The rows that the pass along the rows processes, and the pixels of a row that the other pass processes.
  const int64_t along_rows = down_first ? down_out : source_height;
  const int64_t down_row = down_first ? source_width : along_out;
  const int64_t along = along_out * along_taps;
  // Four rows of the source complete this many rows of the target.
  const int64_t completed =
      std::min<int64_t>(down_out, (int64_t{kRowsAtOnce} * down_out + source_height - 1) / source_height + 1);
  thd_resize_cost cost{};
  cost.memory =
      RowResampler::memory(source_width, along_out, filter) +
      ColumnResampler::memory(source_height, down_out, filter, static_cast<int>(down_row) * kChannels) +
      (int64_t{std::max(source_width, along_out)} * kChannels + kRowPadding) * kRowsAtOnce;
  cost.weights = along + down_out * down_taps;
  cost.products = along_rows * along + down_out * down_row * down_taps;
  cost.step = (down_first ? completed : kRowsAtOnce) * along + completed * down_row * down_taps;
  return cost;
}

void Resizer::push() {
  position_++;
  if (unchanged_) return;
  if (down_first_) {
    down_.push([this](int index, const uint8_t* row) {
      along_.run(row, rows_.data());
      store(index, rows_.data());
    });
    return;
  }
  if (++held_ < kRowsAtOnce && position_ < source_height_) return;
  const uint8_t* in[kRowsAtOnce];
  uint8_t* out[kRowsAtOnce];
  for (int r = 0; r < held_; r++) {
    in[r] = &rows_[row_size_ * r];
    out[r] = down_.next(r);
  }
  along_.run(in, out, held_);
  for (; held_ > 0; held_--) {
    down_.push([this](int index, const uint8_t* row) { store(index, row); });
  }
}

void Resizer::store(int index, const uint8_t* row) {
  const size_t stride = static_cast<size_t>(width_) * kChannels;
  if (!transposed_) {
    std::memcpy(pixels_ + index * stride, row, stride);
    return;
  }
  uint8_t* target = pixels_ + static_cast<ptrdiff_t>(index) * kChannels;
  for (int y = 0; y < height_; y++, target += stride, row += kChannels) std::memcpy(target, row, kChannels);
}

}  // namespace thd
