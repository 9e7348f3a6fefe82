// The C function for resizing. It is separate from resizer.cc, of which plain_resize_test has its own copy.
#include <cstring>

#include "error.h"
#include "resizer.h"

extern "C" {

thd_error* thd_resize(const uint8_t* source, int32_t source_width, int32_t source_height,
                      int32_t source_channels, int32_t orientation, thd_filter filter, int32_t width,
                      int32_t height, uint8_t* pixels) {
  return thd::guard([&] {
    thd::require(source != nullptr, "source must not be NULL");
    thd::require(source_width >= 1 && source_height >= 1, "source_width and source_height must be at least 1");
    thd::require(source_channels == 3 || source_channels == 4, "source_channels must be 3 or 4");
    thd::require_target(orientation, filter, width, height, pixels);
    thd::Resizer resizer(source_width, source_height, orientation, filter, width, height, pixels);
    for (int y = 0; y < source_height; y++) {
      uint8_t* row = resizer.next();
      if (source_channels == thd::kChannels) {
        std::memcpy(row, source, static_cast<size_t>(source_width) * thd::kChannels);
        source += static_cast<size_t>(source_width) * thd::kChannels;
      } else {
        for (int x = 0; x < source_width; x++, source += source_channels, row += thd::kChannels) {
          std::memcpy(row, source, thd::kChannels);
        }
      }
      resizer.push();
    }
  });
}

}  // extern "C"
