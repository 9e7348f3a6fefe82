// JPEG in and out, by libjpeg-turbo. Decodes and encodes equal Pillow's, which uses the same library with
// the same settings: slow integer DCT, smooth chroma upsampling, 4:2:0 and the standard tables out.
//
// libjpeg reports an error by calling error_exit, which must not return. Here it jumps back to a setjmp. A
// jump must not pass over a C++ object with a destructor, so each setjmp stands in a function of its own
// whose locals are plain, and everything with a destructor lives in the struct around it.
#include <cstdio>

#include <jpeglib.h>

#include <jerror.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "error.h"
#include "resizer.h"

namespace {

using thd::Failure;
using thd::require;

constexpr int kCmyk = 4;
// Progressive files made to be slow repeat tiny scans over a huge picture; real ones have about ten.
constexpr int kMaxScans = 200;
constexpr uint8_t kExif[] = {'E', 'x', 'i', 'f', 0, 0};
constexpr unsigned kOrientationTag = 0x0112;

// libjpeg's error manager with the place to jump back to. `code` and `message` say what happened.
struct ErrorManager {
  jpeg_error_mgr base;  // first, so that libjpeg's pointer to it is a pointer to this
  jmp_buf back;
  thd_code code;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void on_error(j_common_ptr info) {
  auto* manager = reinterpret_cast<ErrorManager*>(info->err);
  info->err->format_message(info, manager->message);
  manager->code = info->err->msg_code == JERR_OUT_OF_MEMORY ? THD_ERROR_OUT_OF_MEMORY : THD_ERROR_BAD_PICTURE;
  longjmp(manager->back, 1);  // NOLINT(modernize-avoid-setjmp-longjmp): libjpeg's protocol
}

// Warnings (a broken entropy segment, say) are not errors: like Pillow, decode what is there. The end of the
// data before the end of the picture is one; see on_end_of_data.
void on_message(j_common_ptr info, int level) {
  if (level < 0) info->err->num_warnings++;
}

void on_output(j_common_ptr /*info*/) {}

jpeg_error_mgr* use(ErrorManager* manager) {
  jpeg_error_mgr* base = jpeg_std_error(&manager->base);
  base->error_exit = on_error;
  base->emit_message = on_message;
  base->output_message = on_output;
  return base;
}

[[noreturn]] void fail(j_common_ptr info, thd_code code, const char* message) {
  auto* manager = reinterpret_cast<ErrorManager*>(info->err);
  manager->code = code;
  std::snprintf(manager->message, sizeof manager->message, "%s", message);
  longjmp(manager->back, 1);  // NOLINT(modernize-avoid-setjmp-longjmp): libjpeg's protocol
}

boolean on_end_of_data(j_decompress_ptr info) {
  fail(reinterpret_cast<j_common_ptr>(info), THD_ERROR_BAD_PICTURE, "the JPEG ends before its picture does");
}

void on_progress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    fail(info, THD_ERROR_BAD_PICTURE, "the JPEG has too many scans");
  }
}

// The orientation tag of a TIFF header as EXIF has it; 1 when it has none or can't be read.
int read_orientation(const uint8_t* tiff, size_t size) {
  if (size < 8) return 1;
  const bool little = tiff[0] == 'I' && tiff[1] == 'I';
  const bool big = tiff[0] == 'M' && tiff[1] == 'M';
  if (!little && !big) return 1;
  const auto u16 = [&](size_t at) -> unsigned {
    return little ? tiff[at] | tiff[at + 1] << 8 : tiff[at] << 8 | tiff[at + 1];
  };
  const auto u32 = [&](size_t at) -> size_t {
    const size_t first = u16(at);
    const size_t second = u16(at + 2);
    return little ? first | second << 16 : first << 16 | second;
  };
  constexpr size_t kEntrySize = 12;
  const size_t directory = u32(4);
  if (directory > size || size - directory < 2) return 1;
  const size_t entries = std::min<size_t>(u16(directory), (size - directory - 2) / kEntrySize);
  for (size_t i = 0; i < entries; i++) {
    const size_t entry = directory + 2 + i * kEntrySize;
    if (u16(entry) != kOrientationTag) continue;
    const unsigned value = u16(entry + 8);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

// One JPEG being read. Every call of libjpeg's that can fail is inside one of the two guarded functions.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) {
    info_.err = use(&errors_);
    source_.init_source = [](j_decompress_ptr) {};
    source_.fill_input_buffer = on_end_of_data;
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      if (count <= 0) return;
      if (std::cmp_greater(count, info->src->bytes_in_buffer)) on_end_of_data(info);
      info->src->next_input_byte += count;
      info->src->bytes_in_buffer -= count;
    };
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.term_source = [](j_decompress_ptr) {};
    source_.next_input_byte = data;
    source_.bytes_in_buffer = size;
    progress_.progress_monitor = on_progress;
  }
  ~Reader() { jpeg_destroy_decompress(&info_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  thd_jpeg_info header() {
    check(read_header());
    int orientation = 1;
    for (const auto* marker = info_.marker_list; marker != nullptr; marker = marker->next) {
      if (marker->data_length <= sizeof kExif || std::memcmp(marker->data, kExif, sizeof kExif) != 0) continue;
      orientation = read_orientation(marker->data + sizeof kExif, marker->data_length - sizeof kExif);
      break;
    }
    return {.width = static_cast<int32_t>(info_.image_width),
            .height = static_cast<int32_t>(info_.image_height),
            .channels = info_.num_components,
            .orientation = orientation};
  }

  // Decodes at the smallest of 1/8, 1/4 and 1/2 of the stored size that is still no smaller than width x height
  // (of the stored picture, before any turn): most of the inverse transform's work is left out, and the chroma needs
  // no upsampling. After header().
  void shrink_to(int width, int height) {
    const auto at_least = [](JDIMENSION stored, unsigned denominator, int wanted) {
      return std::cmp_greater_equal((stored + denominator - 1) / denominator, wanted);
    };
    for (const unsigned denominator : {8U, 4U, 2U}) {
      if (!at_least(info_.image_width, denominator, width)) continue;
      if (!at_least(info_.image_height, denominator, height)) continue;
      info_.scale_num = 1;
      info_.scale_denom = denominator;
      return;
    }
  }

  // Makes ready to decode and returns the size of the rows that will come. libjpeg makes RGB of grey too. After header().
  std::pair<int, int> begin() {
    info_.out_color_space = info_.num_components == kCmyk ? JCS_CMYK : JCS_RGB;
    check(start());
    return {static_cast<int>(info_.output_width), static_cast<int>(info_.output_height)};
  }

  // Decodes the picture into the resizer, row by row. After begin().
  void decode(thd::Resizer* resizer) {
    const bool cmyk = info_.out_color_space == JCS_CMYK;
    if (cmyk) cmyk_row_.resize(static_cast<size_t>(info_.output_width) * kCmyk);
    while (info_.output_scanline < info_.output_height) {
      uint8_t* row = resizer->next();
      check(read_row(cmyk ? cmyk_row_.data() : row));
      if (cmyk) cmyk_to_rgb(row);
      resizer->push();
    }
  }

 private:
  bool read_header() {
    if (setjmp(errors_.back) != 0) return false;  // NOLINT(modernize-avoid-setjmp-longjmp)
    jpeg_create_decompress(&info_);
    info_.src = &source_;
    info_.progress = &progress_;
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info_, TRUE);
    return true;
  }

  bool start() {
    if (setjmp(errors_.back) != 0) return false;  // NOLINT(modernize-avoid-setjmp-longjmp)
    jpeg_start_decompress(&info_);
    return true;
  }

  bool read_row(uint8_t* row) {
    if (setjmp(errors_.back) != 0) return false;  // NOLINT(modernize-avoid-setjmp-longjmp)
    jpeg_read_scanlines(&info_, &row, 1);
    return true;
  }

  void check(bool read) const {
    if (!read) throw Failure(errors_.code, errors_.message);
  }

  // Adobe writes CMYK inverted, and every CMYK JPEG in practice is Adobe's; so a stored c is 255 - cyan.
  // Each colour is what its ink lets through of what black lets through: the arithmetic of Pillow's
  // convert("RGB"), with division by 255 rounded to nearest.
  void cmyk_to_rgb(uint8_t* row) const {
    const uint8_t* from = cmyk_row_.data();
    for (JDIMENSION x = 0; x < info_.output_width; x++, from += kCmyk, row += thd::kChannels) {
      const int light = from[3];
      for (int c = 0; c < thd::kChannels; c++) {
        const int product = (255 - from[c]) * light + 128;
        row[c] = static_cast<uint8_t>(std::clamp(light - (((product >> 8) + product) >> 8), 0, 255));
      }
    }
  }

  jpeg_decompress_struct info_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  ErrorManager errors_{};
  std::vector<uint8_t> cmyk_row_;
};

// Writes one JPEG into memory of a fixed size.
class Writer {
 public:
  Writer(uint8_t* out, size_t capacity) : capacity_(capacity) {
    info_.err = use(&errors_);
    target_.init_destination = [](j_compress_ptr) {};
    target_.empty_output_buffer = [](j_compress_ptr info) -> boolean {
      fail(reinterpret_cast<j_common_ptr>(info), THD_ERROR_INVALID_ARGUMENT,
           "the JPEG doesn't fit: give thd_jpeg_bound bytes");
    };
    target_.term_destination = [](j_compress_ptr) {};
    target_.next_output_byte = out;
    target_.free_in_buffer = capacity;
  }
  ~Writer() { jpeg_destroy_compress(&info_); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // pixels: height*width*channels bytes. Returns the bytes written.
  size_t encode(const uint8_t* pixels, int width, int height, int channels, int quality) {
    if (!write(pixels, width, height, channels, quality)) throw Failure(errors_.code, errors_.message);
    return capacity_ - target_.free_in_buffer;
  }

 private:
  bool write(const uint8_t* pixels, int width, int height, int channels, int quality) {
    if (setjmp(errors_.back) != 0) return false;  // NOLINT(modernize-avoid-setjmp-longjmp)
    jpeg_create_compress(&info_);
    info_.dest = &target_;
    info_.image_width = width;
    info_.image_height = height;
    info_.input_components = channels;
    info_.in_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&info_);
    jpeg_set_quality(&info_, quality, TRUE);
    jpeg_start_compress(&info_, TRUE);
    const size_t stride = static_cast<size_t>(width) * channels;
    while (info_.next_scanline < info_.image_height) {
      auto* row = const_cast<JSAMPROW>(pixels + info_.next_scanline * stride);
      jpeg_write_scanlines(&info_, &row, 1);
    }
    jpeg_finish_compress(&info_);
    return true;
  }

  size_t capacity_;
  jpeg_compress_struct info_{};
  jpeg_destination_mgr target_{};
  ErrorManager errors_{};
};

bool jpeg_size(int32_t side) { return side >= 1 && side <= JPEG_MAX_DIMENSION; }

}  // namespace

#define THD_STRING_(x) #x
#define THD_STRING(x) THD_STRING_(x)

extern "C" {

const char* thd_libjpeg_version(void) { return THD_STRING(LIBJPEG_TURBO_VERSION); }

thd_error* thd_jpeg_read_header(const uint8_t* data, size_t size, thd_jpeg_info* out) {
  return thd::guard([&] {
    require(data != nullptr && out != nullptr, "data and out must not be NULL");
    *out = Reader(data, size).header();
  });
}

thd_error* thd_jpeg_decode(const uint8_t* data, size_t size, const thd_jpeg_decode_options* options,
                           int32_t width, int32_t height, uint8_t* pixels) {
  return thd::guard([&] {
    require(data != nullptr && options != nullptr, "data and options must not be NULL");
    int32_t orientation = options->orientation;
    thd::require_target(orientation == THD_ORIENTATION_EXIF ? 1 : orientation, options->filter, width, height,
                        pixels);
    Reader reader(data, size);
    const thd_jpeg_info info = reader.header();
    if (orientation == THD_ORIENTATION_EXIF) orientation = info.orientation;
    const int64_t count = static_cast<int64_t>(info.width) * info.height;
    if (options->max_pixels > 0 && count > options->max_pixels) {
      throw Failure(THD_ERROR_TOO_MANY_PIXELS, std::to_string(info.width) + "x" + std::to_string(info.height) +
                                                   " is more than " + std::to_string(options->max_pixels) +
                                                   " pixels");
    }
    const bool grey = info.channels == 1 && options->gray != 0;
    if (info.channels < thd::kChannels && !grey) {
      throw Failure(THD_ERROR_NOT_RGB, "the JPEG has " + std::to_string(info.channels) + " channel(s)");
    }
    if (options->scaled != 0) {
      const bool sideways = thd::swaps_axes(orientation);
      reader.shrink_to(sideways ? height : width, sideways ? width : height);
    }
    const auto [decoded_width, decoded_height] = reader.begin();
    thd::Resizer resizer(decoded_width, decoded_height, orientation, options->filter, width, height, pixels);
    reader.decode(&resizer);
  });
}

size_t thd_jpeg_bound(int32_t width, int32_t height, int32_t channels) {
  if (!jpeg_size(width) || !jpeg_size(height) || (channels != 1 && channels != 3)) return 0;
  // libjpeg-turbo's own bound (tjBufSize): two bytes a sample of luma and of subsampled chroma, in whole
  // 16x16 blocks, and 2048 for the headers.
  const auto blocks = [](int32_t side) { return (static_cast<size_t>(side) + 15) & ~size_t{15}; };
  return blocks(width) * blocks(height) * (channels == 1 ? 2 : 3) + 2048;
}

thd_error* thd_jpeg_encode(const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                           int32_t quality, uint8_t* out, size_t capacity, size_t* written) {
  return thd::guard([&] {
    require(pixels != nullptr && out != nullptr && written != nullptr, "no pointer may be NULL");
    require(jpeg_size(width) && jpeg_size(height), "a JPEG has 1 to 65500 pixels a side");
    require(channels == 1 || channels == 3, "channels must be 1 or 3");
    require(quality >= 1 && quality <= 100, "quality must be 1 to 100");
    require(capacity > 0, "capacity must be 1 or more");
    *written = Writer(out, capacity).encode(pixels, width, height, channels, quality);
  });
}

}  // extern "C"
