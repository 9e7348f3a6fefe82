// Decodes and encodes JPEG by libjpeg-turbo. The results equal Pillow's, which uses the same library with the same
// settings: slow integer DCT, smooth chroma upsampling, and 4:2:0 with the standard tables for encoding.
//
// libjpeg reports an error by calling error_exit, which must not return. Here it jumps back to a setjmp. A jump must
// not skip the destructor of a C++ object, so each setjmp is in a function without such objects, and every object with
// a destructor is a member of the class.
#include <cstdio>

#include <jpeglib.h>

#include <jerror.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "error.h"
#include "resizer.h"
#include "structs.h"

namespace {

using thd::Failure;
using thd::require;

constexpr int kCmyk = 4;
// The decoder looks at the caller's cancel flag each time it has read this many bytes, and after each row of blocks.
constexpr size_t kWindow = 256 << 10;
// A byte of arithmetic coding can stand for hundreds of decisions.
constexpr size_t kArithmeticWindow = 16 << 10;

// libjpeg's error manager, with the target of the jump and the error.
struct ErrorManager {
  jpeg_error_mgr base;  // first, so that libjpeg's pointer to it also points to the ErrorManager
  jmp_buf back;
  thd_code code;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void on_error(j_common_ptr info) {
  auto* manager = reinterpret_cast<ErrorManager*>(info->err);
  info->err->format_message(info, manager->message);
  const bool memory = info->err->msg_code == JERR_OUT_OF_MEMORY || info->err->msg_code == JERR_NO_BACKING_STORE;
  manager->code = memory ? THD_ERROR_OUT_OF_MEMORY : THD_ERROR_BAD_IMAGE;
  longjmp(manager->back, 1);  // NOLINT(modernize-avoid-setjmp-longjmp): libjpeg's protocol
}

// Ignores warnings, such as of a corrupt entropy segment: like Pillow, decode what is there. Only a truncated file is
// an error; see on_end_of_data.
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

[[noreturn]] void fail_truncated(j_decompress_ptr info) {
  fail(reinterpret_cast<j_common_ptr>(info), THD_ERROR_BAD_IMAGE, "the JPEG is truncated");
}

// libjpeg's progress monitor, with what ends the decoding.
struct Monitor {
  jpeg_progress_mgr base;  // first, so that libjpeg's pointer to it also points to the Monitor
  const volatile int32_t* cancel;
  int64_t max_blocks;
  int64_t blocks;  // those of the scans begun so far
  int scan;        // the last scan that was counted
};

void stop_if_cancelled(j_common_ptr info) {
  const auto* monitor = reinterpret_cast<const Monitor*>(info->progress);
  if (monitor->cancel != nullptr && __atomic_load_n(monitor->cancel, __ATOMIC_RELAXED) != 0) {
    fail(info, THD_ERROR_CANCELLED, "cancelled");
  }
}

// Called once per row of blocks while scans are read, and once per row of pixels.
void on_progress(j_common_ptr info) {
  stop_if_cancelled(info);
  const auto* image = reinterpret_cast<j_decompress_ptr>(info);
  auto* monitor = reinterpret_cast<Monitor*>(info->progress);
  if (monitor->max_blocks == 0 || monitor->scan == image->input_scan_number) return;
  monitor->scan = image->input_scan_number;
  monitor->blocks +=
      static_cast<int64_t>(image->MCUs_per_row) * image->MCU_rows_in_scan * image->blocks_in_MCU +
      THD_JPEG_SCAN_BLOCKS;
  if (monitor->blocks <= monitor->max_blocks) return;
  char message[JMSG_LENGTH_MAX];
  std::snprintf(message, sizeof message, "%d or more scans of %ux%u pixels", monitor->scan, image->image_width,
                image->image_height);
  fail(info, THD_ERROR_TOO_MUCH_WORK, message);
}

// libjpeg's data source. It gives the file to libjpeg in windows, so that a long file can be cancelled between two.
class Source {
 public:
  Source(const uint8_t* data, size_t size) : window_end_(data), end_(data + size) {
    base_.init_source = [](j_decompress_ptr) {};
    base_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {
      // libjpeg's own position may be behind here.
      if (!of(info)->open(of(info)->window_end_)) fail_truncated(info);
      stop_if_cancelled(reinterpret_cast<j_common_ptr>(info));
      return TRUE;
    };
    base_.skip_input_data = [](j_decompress_ptr info, long count) {
      if (count > 0) of(info)->skip(info, static_cast<size_t>(count));
    };
    base_.resync_to_restart = jpeg_resync_to_restart;
    base_.term_source = [](j_decompress_ptr) {};
    base_.next_input_byte = data;
  }

  static Source* of(j_decompress_ptr info) { return reinterpret_cast<Source*>(info->src); }
  jpeg_source_mgr* base() { return &base_; }

  // Sets the number of bytes after which the decoder looks at the cancel flag.
  void set_window(size_t window) {
    window_ = window;
    open(base_.next_input_byte);
  }

  void skip(j_decompress_ptr info, size_t count) {
    if (std::cmp_greater(count, end_ - base_.next_input_byte)) fail_truncated(info);
    if (count <= base_.bytes_in_buffer) {
      base_.next_input_byte += count;
      base_.bytes_in_buffer -= count;
    } else {
      open(base_.next_input_byte + count);
    }
  }

 private:
  // Moves to a position and reports whether the file has bytes there.
  bool open(const uint8_t* position) {
    base_.next_input_byte = position;
    base_.bytes_in_buffer = std::min(window_, static_cast<size_t>(end_ - position));
    window_end_ = position + base_.bytes_in_buffer;
    return base_.bytes_in_buffer > 0;
  }

  jpeg_source_mgr base_{};  // first, so that libjpeg's pointer to it also points to the Source
  size_t window_ = kWindow;
  const uint8_t* window_end_;
  const uint8_t* end_;
};
static_assert(std::is_standard_layout_v<Source>);

// Reads one JPEG. Every call of libjpeg that can fail is in one of the three private functions with a setjmp.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : source_(data, size) {
    info_.err = use(&errors_);
    monitor_.base.progress_monitor = on_progress;
  }
  ~Reader() { jpeg_destroy_decompress(&info_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  thd_jpeg_info header() {
    check(read_header());
    return {.struct_size = sizeof(thd_jpeg_info),
            .width = static_cast<int32_t>(info_.image_width),
            .height = static_cast<int32_t>(info_.image_height),
            .channels = info_.num_components,
            .blocks = blocks(),
            .memory = memory(),
            .buffered = buffered() ? 1 : 0,
            .arithmetic = info_.arith_code != 0 ? 1 : 0};
  }

  // Sets what ends the decoding; see thd_jpeg_decode_options. Call it before begin().
  void limit(const volatile int32_t* cancel, int64_t max_blocks) {
    monitor_.cancel = cancel;
    monitor_.max_blocks = max_blocks;
  }

  // Selects the smallest of 1/8, 1/4 and 1/2 of the stored size that is at least width x height (before the orientation
  // is applied). This saves most of the inverse transform and the upsampling of chroma. Call it after header().
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

  // Starts decoding to RGB, gray images too, and returns the decoded width and height. Call it after header().
  std::pair<int, int> begin() {
    info_.out_color_space = info_.num_components == kCmyk ? JCS_CMYK : JCS_RGB;
    info_.mem->max_memory_to_use = static_cast<long>(memory());
    if (info_.arith_code != 0) source_.set_window(kArithmeticWindow);
    check(start());
    return {static_cast<int>(info_.output_width), static_cast<int>(info_.output_height)};
  }

  // Decodes the image into the resizer, row by row. black: takes the black of CMYK, which then isn't converted; or
  // nullptr. Call it after begin().
  void decode(thd::Resizer* resizer, thd::Resizer* black) {
    const bool cmyk = info_.out_color_space == JCS_CMYK;
    if (cmyk) cmyk_row_.resize(static_cast<size_t>(info_.output_width) * kCmyk);
    while (info_.output_scanline < info_.output_height) {
      uint8_t* row = resizer->next();
      check(read_row(cmyk ? cmyk_row_.data() : row));
      if (cmyk && black != nullptr) {
        split_inks(row, black->next());
        black->push();
      } else if (cmyk) {
        cmyk_to_rgb(row);
      }
      resizer->push();
    }
  }

 private:
  bool read_header() {
    if (setjmp(errors_.back) != 0) return false;  // NOLINT(modernize-avoid-setjmp-longjmp)
    jpeg_create_decompress(&info_);
    info_.src = source_.base();
    info_.progress = &monitor_.base;
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

  bool buffered() const { return jpeg_has_multiple_scans(const_cast<jpeg_decompress_struct*>(&info_)) != 0; }

  static int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

  int64_t blocks() const {
    int64_t sum = 0;
    for (int i = 0; i < info_.num_components; i++) {
      const jpeg_component_info& c = info_.comp_info[i];
      sum += rounded_up(c.width_in_blocks, c.h_samp_factor) * rounded_up(c.height_in_blocks, c.v_samp_factor);
    }
    return sum;
  }

  // Returns the number of bytes that libjpeg allocates at most. Beside the coefficients of a buffered image, which are
  // nearly all, it allocates for each component a row of blocks before and after the upsampling, and small objects.
  int64_t memory() const {
    constexpr int64_t kFixed = 192 << 10;
    constexpr int64_t kContextRows = DCTSIZE + 4;  // rows of a component per vertical sampling factor
    const int64_t width = rounded_up(info_.image_width, int64_t{DCTSIZE} * info_.max_h_samp_factor);
    const int64_t rows = info_.max_v_samp_factor * (kContextRows + 1) + 2;
    const int64_t output = width * info_.num_components * rows + int64_t{info_.image_width} * kCmyk;
    const int64_t pointers = info_.image_height * int64_t{sizeof(void*)} * info_.num_components;
    return kFixed + output + pointers + (buffered() ? blocks() * int64_t{sizeof(JBLOCK)} : 0);
  }

  void check(bool read) const {
    if (!read) throw Failure(errors_.code, errors_.message);
  }

  // Converts a row with the arithmetic of Pillow's convert("RGB"): a color is the light that passes both its ink and
  // black, and the division by 255 rounds to nearest. Adobe stores CMYK inverted (c is 255 - cyan), and in practice
  // every CMYK JPEG is Adobe's.
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

  void split_inks(uint8_t* cmy, uint8_t* black) const {
    const uint8_t* from = cmyk_row_.data();
    for (JDIMENSION x = 0; x < info_.output_width;
         x++, from += kCmyk, cmy += thd::kChannels, black += thd::kChannels) {
      std::copy_n(from, thd::kChannels, cmy);
      std::fill_n(black, thd::kChannels, from[thd::kChannels]);
    }
  }

  jpeg_decompress_struct info_{};
  Source source_;
  Monitor monitor_{};
  ErrorManager errors_{};
  std::vector<uint8_t> cmyk_row_;
};

// Writes one JPEG into a buffer of fixed size.
class Writer {
 public:
  Writer(uint8_t* out, size_t capacity) : capacity_(capacity) {
    info_.err = use(&errors_);
    target_.init_destination = [](j_compress_ptr) {};
    target_.empty_output_buffer = [](j_compress_ptr info) -> boolean {
      fail(reinterpret_cast<j_common_ptr>(info), THD_ERROR_INVALID_ARGUMENT,
           "the JPEG doesn't fit into the buffer: provide thd_jpeg_bound bytes");
    };
    target_.term_destination = [](j_compress_ptr) {};
    target_.next_output_byte = out;
    target_.free_in_buffer = capacity;
  }
  ~Writer() { jpeg_destroy_compress(&info_); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Returns the number of bytes written. pixels: height*width*channels bytes.
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

bool is_jpeg_side(int32_t side) { return side >= 1 && side <= JPEG_MAX_DIMENSION; }

}  // namespace

#define THD_STRING_(x) #x
#define THD_STRING(x) THD_STRING_(x)

extern "C" {

const char* thd_libjpeg_version(void) { return THD_STRING(LIBJPEG_TURBO_VERSION); }

thd_error* thd_jpeg_read_header(const uint8_t* data, size_t size, thd_jpeg_info* out) {
  return thd::guard([&] {
    require(data != nullptr && out != nullptr, "data and out must not be NULL");
    const size_t out_size = thd::size_of_struct(out, "out");
    thd::write_struct(out, out_size, Reader(data, size).header());
  });
}

thd_error* thd_jpeg_decode(const uint8_t* data, size_t size, const thd_jpeg_decode_options* options,
                           int32_t width, int32_t height, uint8_t* pixels) {
  return thd::guard([&] {
    require(data != nullptr && options != nullptr, "data and options must not be NULL");
    const thd_jpeg_decode_options how = thd::read_struct(options, "options");
    const int32_t orientation = how.orientation == 0 ? 1 : how.orientation;
    thd::require_target(orientation, how.filter, width, height, pixels);
    Reader reader(data, size);
    const thd_jpeg_info info = reader.header();
    const int64_t count = static_cast<int64_t>(info.width) * info.height;
    if (how.max_pixels > 0 && count > how.max_pixels) {
      throw Failure(THD_ERROR_TOO_MANY_PIXELS, std::to_string(info.width) + "x" + std::to_string(info.height) +
                                                   " is more than " + std::to_string(how.max_pixels) +
                                                   " pixels");
    }
    const bool accepted_gray = info.channels == 1 && how.gray != 0;
    if (info.channels < thd::kChannels && !accepted_gray) {
      throw Failure(THD_ERROR_NOT_RGB, "the JPEG has " + std::to_string(info.channels) + " channel(s)");
    }
    if (how.scaled != 0) {
      const bool transposed = thd::swaps_axes(orientation);
      reader.shrink_to(transposed ? height : width, transposed ? width : height);
    }
    reader.limit(how.cancel, how.max_blocks);
    const auto [decoded_width, decoded_height] = reader.begin();
    thd::Resizer resizer(decoded_width, decoded_height, orientation, how.filter, width, height, pixels);
    std::optional<thd::Resizer> black;
    if (how.black != nullptr && info.channels == kCmyk) {
      black.emplace(decoded_width, decoded_height, orientation, how.filter, width, height, how.black);
    }
    reader.decode(&resizer, black ? &*black : nullptr);
  });
}

size_t thd_jpeg_bound(int32_t width, int32_t height, int32_t channels) {
  if (!is_jpeg_side(width) || !is_jpeg_side(height) || (channels != 1 && channels != 3)) return 0;
  // libjpeg-turbo's own bound (tjBufSize): two bytes per sample of luma and subsampled chroma, in whole 16x16 blocks,
  // and 2048 bytes for the headers.
  const auto blocks = [](int32_t side) { return (static_cast<size_t>(side) + 15) & ~size_t{15}; };
  return blocks(width) * blocks(height) * (channels == 1 ? 2 : 3) + 2048;
}

thd_error* thd_jpeg_encode(const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                           int32_t quality, uint8_t* out, size_t capacity, size_t* written) {
  return thd::guard([&] {
    require(pixels != nullptr && out != nullptr && written != nullptr, "no pointer argument may be NULL");
    require(is_jpeg_side(width) && is_jpeg_side(height), "width and height must be 1 to 65500");
    require(channels == 1 || channels == 3, "channels must be 1 or 3");
    require(quality >= 1 && quality <= 100, "quality must be 1 to 100");
    require(capacity > 0, "capacity must be at least 1");
    *written = Writer(out, capacity).encode(pixels, width, height, channels, quality);
  });
}

}  // extern "C"
