// The C functions for resizing. They are separate from resizer.cc, of which plain_resize_test has its own copy.
#include <cstring>

#include "error.h"
#include "resizer.h"
#include "structs.h"

struct thd_resizer {
  int source_width;
  thd::Resizer resizer;
};

namespace {

using thd::require;

void require_source(int source_width, int source_height) {
  require(source_width >= 1 && source_height >= 1, "source_width and source_height must be at least 1");
}

// Pushes rows of 3 or 4 channels, of which the fourth is dropped.
void push_rows(thd::Resizer* resizer, const uint8_t* rows, int count, int width, int channels) {
  require(rows != nullptr, "the source must not be NULL");
  require(channels == 3 || channels == 4, "the channels of the source must be 3 or 4");
  for (int y = 0; y < count; y++) {
    uint8_t* row = resizer->next();
    if (channels == thd::kChannels) {
      std::memcpy(row, rows, static_cast<size_t>(width) * thd::kChannels);
      rows += static_cast<size_t>(width) * thd::kChannels;
    } else {
      for (int x = 0; x < width; x++, rows += channels, row += thd::kChannels) {
        std::memcpy(row, rows, thd::kChannels);
      }
    }
    resizer->push();
  }
}

}  // namespace

extern "C" {

thd_error* thd_resize(const uint8_t* source, int32_t source_width, int32_t source_height,
                      int32_t source_channels, int32_t orientation, thd_filter filter, int32_t width,
                      int32_t height, uint8_t* pixels) {
  return thd::guard([&] {
    require_source(source_width, source_height);
    thd::require_target(orientation, filter, width, height, pixels);
    thd::Resizer resizer(source_width, source_height, orientation, filter, width, height, pixels);
    push_rows(&resizer, source, source_height, source_width, source_channels);
  });
}

thd_error* thd_resize_estimate(int32_t source_width, int32_t source_height, int32_t orientation,
                               thd_filter filter, int32_t width, int32_t height, thd_resize_cost* out) {
  return thd::guard([&] {
    require(out != nullptr, "out must not be NULL");
    const size_t out_size = thd::size_of_struct(out, "out");
    require_source(source_width, source_height);
    thd::require_target(orientation, filter, width, height);
    thd::write_struct(out, out_size,
                      thd::Resizer::cost(source_width, source_height, orientation, filter, width, height));
  });
}

thd_error* thd_resizer_new(int32_t source_width, int32_t source_height, int32_t orientation, thd_filter filter,
                           int32_t width, int32_t height, thd_resizer** out) {
  return thd::guard([&] {
    require(out != nullptr, "out must not be NULL");
    require_source(source_width, source_height);
    thd::require_target(orientation, filter, width, height);
    *out = new thd_resizer{
        .source_width = source_width,
        .resizer = thd::Resizer(source_width, source_height, orientation, filter, width, height, nullptr)};
  });
}

thd_error* thd_resizer_push(thd_resizer* resizer, const uint8_t* rows, int32_t count, int32_t channels,
                            uint8_t* pixels) {
  return thd::guard([&] {
    require(resizer != nullptr && pixels != nullptr, "resizer and pixels must not be NULL");
    require(count >= 0 && resizer->resizer.expects(count), "count is more than the rows that are missing");
    resizer->resizer.write_to(pixels);
    push_rows(&resizer->resizer, rows, count, resizer->source_width, channels);
  });
}

void thd_resizer_free(thd_resizer* resizer) { delete resizer; }

}  // extern "C"
