// Decodes a JPEG 2000 codestream (ITU-T T.800, annex A), and converts it to RGB.
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "openjpeg.h"

static char error_text[200];

__attribute__((export_name("error"))) const char* error(void) { return error_text; }

// Keeps the first text, which is the cause, without the end of its line.
static void keep(const char* text, void* unused) {
  (void)unused;
  if (error_text[0] == 0) strncpy(error_text, text, strcspn(text, "\n") < sizeof error_text ? strcspn(text, "\n") : sizeof error_text - 1);
}

static void drop(const char* text, void* unused) { (void)text, (void)unused; }

// The linker puts these in place of the C library's: OpenJPEG doesn't tell a lack of memory from other errors.
static int exhausted;

static void* allocated(void* memory) {
  exhausted |= memory == NULL;
  return memory;
}

void *__real_malloc(size_t size), *__real_calloc(size_t count, size_t size), *__real_realloc(void* memory, size_t size);
int __real_posix_memalign(void** out, size_t alignment, size_t size);
void* __wrap_malloc(size_t size) { return allocated(__real_malloc(size)); }
void* __wrap_calloc(size_t count, size_t size) { return allocated(__real_calloc(count, size)); }
void* __wrap_realloc(void* memory, size_t size) { return allocated(__real_realloc(memory, size)); }
int __wrap_posix_memalign(void** out, size_t alignment, size_t size) {
  const int result = __real_posix_memalign(out, alignment, size);
  exhausted |= result != 0;
  return result;
}

typedef struct {
  const uint8_t* data;
  size_t size, at;
} Stream;

static OPJ_SIZE_T stream_read(void* out, OPJ_SIZE_T size, void* from) {
  Stream* stream = from;
  const size_t left = stream->size - stream->at;
  if (left == 0) return (OPJ_SIZE_T)-1;
  if (size > left) size = left;
  memcpy(out, stream->data + stream->at, size);
  stream->at += size;
  return size;
}

static OPJ_OFF_T stream_skip(OPJ_OFF_T size, void* from) {
  Stream* stream = from;
  const size_t left = stream->size - stream->at;
  if (size < 0) return -1;
  if ((uint64_t)size > left) size = (OPJ_OFF_T)left;
  stream->at += (size_t)size;
  return size;
}

static OPJ_BOOL stream_seek(OPJ_OFF_T to, void* from) {
  Stream* stream = from;
  if (to < 0 || (uint64_t)to > stream->size) return OPJ_FALSE;
  stream->at = (size_t)to;
  return OPJ_TRUE;
}

static int32_t fail(const char* text) {
  keep(text, NULL);
  return exhausted ? kOutOfMemory : kBroken;
}

// How pixels are made of components.
enum { YCC = 1, PALETTE = 2, NO_CHANNEL = 255, COLUMNS = 4 };
typedef struct {
  const opj_image_t* image;
  const uint8_t* palette;  // of COLUMNS bytes for each index; NULL: none
  uint8_t channels[4];     // the component, or the column of the palette, of red, green, blue and alpha, or NO_CHANNEL
  int ycc;
} Layout;

// Returns a row of a component's samples, which can have fewer than pixels.
static const int32_t* samples(const opj_image_comp_t* c, uint32_t y) {
  const uint32_t row = y / c->dy;
  return c->data + (size_t)(row < c->h ? row : c->h - 1) * c->w;
}

static inline uint32_t sample(const opj_image_comp_t* c, const int32_t* row, uint32_t x) {
  const uint32_t at = c->dx == 1 ? x : x / c->dx;
  return (uint32_t)(row[at < c->w ? at : c->w - 1] + (c->sgnd ? 1 << (c->prec - 1) : 0));
}

// Returns 8 bits, as Pillow does: fewer are shifted up.
static inline uint8_t to8(const opj_image_comp_t* c, uint32_t v) { return (uint8_t)(c->prec > 8 ? v >> (c->prec - 8) : v << (8 - c->prec)); }

static inline uint16_t to16(const opj_image_comp_t* c, uint32_t v) {
  return c->prec == 16 ? (uint16_t)v : (uint16_t)((v * 65535u + ((1u << c->prec) - 1) / 2) / ((1u << c->prec) - 1));
}

static float clamped(float v, float most) { return v < 0 ? 0 : v > most ? most : v; }

// Converts YCbCr of BT.601 to RGB.
static void to_rgb(float y, float cb, float cr, float most, float* rgb) {
  const float middle = most == 255.0f ? 128.0f : 32768.0f;
  rgb[0] = clamped(y + 1.402f * (cr - middle) + 0.5f, most);
  rgb[1] = clamped(y - 0.344136f * (cb - middle) - 0.714136f * (cr - middle) + 0.5f, most);
  rgb[2] = clamped(y + 1.772f * (cb - middle) + 0.5f, most);
}

static void indexed_row(const Layout* l, uint32_t y, uint32_t width, uint8_t* out, uint8_t* alpha) {
  const opj_image_comp_t* c = l->image->comps;
  const int32_t* row = samples(c, y);
  for (uint32_t x = 0; x < width; x++) {
    const uint8_t* colour = l->palette + (size_t)COLUMNS * (uint8_t)sample(c, row, x);
    for (int k = 0; k < 3; k++) out[3 * x + k] = colour[l->channels[k]];
    if (alpha != NULL) alpha[x] = colour[l->channels[3]];
  }
}

// Sets out to a row of RGB of 8 bits, or of 16 if it is deep.
static void colour_row(const Layout* l, uint32_t y, uint32_t width, uint8_t* out, int deep) {
  const opj_image_comp_t* c[3];
  const int32_t* row[3];
  for (int k = 0; k < 3; k++) c[k] = l->image->comps + l->channels[k], row[k] = samples(c[k], y);
  for (int k = 0; k < 3; k++) {
    for (uint32_t x = 0; x < width; x++) {
      const uint32_t v = sample(c[k], row[k], x);
      if (deep) {
        ((uint16_t*)out)[3 * x + k] = to16(c[k], v);
      } else {
        out[3 * x + k] = to8(c[k], v);
      }
    }
  }
  if (!l->ycc) return;
  for (uint32_t i = 0; i < 3 * width; i += 3) {
    float rgb[3];
    if (deep) {
      uint16_t* p = (uint16_t*)out + i;
      to_rgb(p[0], p[1], p[2], 65535.0f, rgb);
      for (int k = 0; k < 3; k++) p[k] = (uint16_t)rgb[k];
    } else {
      uint8_t* p = out + i;
      to_rgb(p[0], p[1], p[2], 255.0f, rgb);
      for (int k = 0; k < 3; k++) p[k] = (uint8_t)rgb[k];
    }
  }
}

static void alpha_row(const Layout* l, uint32_t y, uint32_t width, uint8_t* alpha) {
  const opj_image_comp_t* c = l->image->comps + l->channels[3];
  const int32_t* row = samples(c, y);
  for (uint32_t x = 0; x < width; x++) alpha[x] = to8(c, sample(c, row, x));
}

static int32_t push(const Layout* l, uint32_t width, uint32_t height, uint32_t most, int deep) {
  const size_t of_pixel = deep ? 6 : 3;
  uint8_t* pixels = malloc(of_pixel * width * most);
  uint8_t* alpha = l->channels[3] == NO_CHANNEL ? NULL : malloc((size_t)width * most);
  if (pixels == NULL || (alpha == NULL && l->channels[3] != NO_CHANNEL)) return kOutOfMemory;
  for (uint32_t y = 0; y < height; y += most) {
    const uint32_t rows = height - y < most ? height - y : most;
    for (uint32_t k = 0; k < rows; k++) {
      uint8_t* of_row = alpha == NULL ? NULL : alpha + (size_t)width * k;
      if (l->palette != NULL) {
        indexed_row(l, y + k, width, pixels + of_pixel * width * k, of_row);
        continue;
      }
      colour_row(l, y + k, width, pixels + of_pixel * width * k, deep);
      if (of_row != NULL) alpha_row(l, y + k, width, of_row);
    }
    if (!host_rows(pixels, (int32_t)rows, alpha)) return kEnded;
  }
  return kDone;
}

// Decodes the first `length` bytes, after which the palette follows. channels: as in a Layout, the first in the lowest byte;
// kind: YCC, PALETTE or 0.
__attribute__((export_name("decode"))) int32_t decode(const uint8_t* file, uint32_t size, uint32_t length, uint32_t width, uint32_t height,
                                                      uint32_t most, uint32_t channels, uint32_t kind, int32_t deep) {
  (void)size;
  Stream from = {file, length, 0};
  opj_stream_t* stream = opj_stream_create(65536, OPJ_TRUE);
  opj_codec_t* codec = opj_create_decompress(OPJ_CODEC_J2K);
  if (stream == NULL || codec == NULL) return kOutOfMemory;
  opj_stream_set_user_data(stream, &from, NULL);
  opj_stream_set_user_data_length(stream, length);
  opj_stream_set_read_function(stream, stream_read);
  opj_stream_set_skip_function(stream, stream_skip);
  opj_stream_set_seek_function(stream, stream_seek);
  opj_set_error_handler(codec, keep, NULL);
  opj_set_warning_handler(codec, drop, NULL);
  opj_set_info_handler(codec, drop, NULL);
  opj_dparameters_t parameters;
  opj_set_default_decoder_parameters(&parameters);
  opj_image_t* image = NULL;
  if (!opj_setup_decoder(codec, &parameters) || !opj_read_header(stream, codec, &image)) return fail("the header can't be decoded");
  if (!opj_decode(codec, stream, image)) return fail("the data can't be decoded");
  if (image->x1 - image->x0 != width || image->y1 - image->y0 != height) return fail("the data has another size than its header");
  Layout layout = {image, kind == PALETTE ? file + length : NULL, {0}, kind == YCC};
  for (int k = 0; k < 4; k++) {
    layout.channels[k] = (uint8_t)(channels >> (8 * k));
    if (kind == PALETTE || layout.channels[k] == NO_CHANNEL) continue;
    if (layout.channels[k] >= image->numcomps) return fail("the data has fewer components than its header");
  }
  for (uint32_t i = 0; i < image->numcomps; i++) {
    if (image->comps[i].data == NULL || image->comps[i].w == 0 || image->comps[i].h == 0) return fail("a component has no samples");
  }
  return push(&layout, width, height, most, deep);
}
