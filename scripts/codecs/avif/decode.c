// Decodes the AV1 data of an AVIF's primary image, and converts it to RGB.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wasm_simd128.h>

#include "dav1d/dav1d.h"
#include "host.h"

static char error_text[200];

__attribute__((export_name("error"))) const char* error(void) { return error_text; }

static int32_t fail(const char* text) {
  strncpy(error_text, text, sizeof error_text - 1);
  return kBroken;
}

static void keep(const uint8_t* data, void* cookie) { (void)data, (void)cookie; }

// A conversion from YCbCr to RGB with FRACTION bits after the point: r = y * luma + cr * rv + zero, and so on.
enum { FRACTION = 14 };
typedef struct {
  int identity, gray;
  int32_t luma, zero;  // zero: half a level, less what luma makes of black
  int32_t rv, gu, gv, bu, middle;
  struct {
    float luma, zero, rv, gu, gv, bu;
  } deep;  // the same to 16 bits
} Conversion;

static int32_t fixed(float value) { return (int32_t)(value * (1 << FRACTION) + (value < 0 ? -0.5f : 0.5f)); }

// Returns 0 for a matrix that isn't known.
static int choose(Conversion* c, const Dav1dPicture* p, int32_t matrix, int32_t full) {
  float kr = 0.299f, kb = 0.114f;
  if (matrix < 0) matrix = p->seq_hdr->mtrx, full = p->seq_hdr->color_range;
  c->gray = p->p.layout == DAV1D_PIXEL_LAYOUT_I400;
  switch (matrix) {
    case 0: c->identity = 1; break;
    case 1: kr = 0.2126f, kb = 0.0722f; break;
    case 2: case 5: case 6: break;
    case 4: kr = 0.30f, kb = 0.11f; break;
    case 7: kr = 0.212f, kb = 0.087f; break;
    case 9: kr = 0.2627f, kb = 0.0593f; break;
    default:
      if (!c->gray) return 0;
  }
  if (c->identity && !c->gray && p->p.layout != DAV1D_PIXEL_LAYOUT_I444) return 0;
  const float unit = (float)(1 << (p->p.bpc - 8)), largest = (float)((1 << p->p.bpc) - 1);
  const float of_luma = full ? 255.0f / largest : 255.0f / (219.0f * unit), of_chroma = full ? 255.0f / largest : 255.0f / (224.0f * unit);
  const float kg = 1.0f - kr - kb;
  c->luma = fixed(of_luma);
  c->zero = fixed(0.5f) - (full ? 0 : fixed(of_luma * 16.0f * unit));
  c->middle = 128 << (p->p.bpc - 8);
  c->rv = fixed(of_chroma * 2.0f * (1.0f - kr));
  c->bu = fixed(of_chroma * 2.0f * (1.0f - kb));
  c->gu = fixed(of_chroma * 2.0f * kb * (1.0f - kb) / kg);
  c->gv = fixed(of_chroma * 2.0f * kr * (1.0f - kr) / kg);
  const float y = of_luma * 257.0f, uv = of_chroma * 257.0f;
  c->deep.luma = y;
  c->deep.zero = 0.5f - (full ? 0 : y * 16.0f * unit);
  c->deep.rv = uv * 2.0f * (1.0f - kr);
  c->deep.bu = uv * 2.0f * (1.0f - kb);
  c->deep.gu = uv * 2.0f * kb * (1.0f - kb) / kg;
  c->deep.gv = uv * 2.0f * kr * (1.0f - kr) / kg;
  return 1;
}

static inline uint8_t level(int32_t value) {
  value >>= FRACTION;
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Reads a row of samples.
static void samples(const Dav1dPicture* p, int plane, int y, int width, uint16_t* restrict out) {
  const uint8_t* row = (const uint8_t*)p->data[plane] + (ptrdiff_t)y * p->stride[plane != 0];
  if (p->p.bpc > 8) {
    memcpy(out, row, 2 * (size_t)width);
    return;
  }
  for (int x = 0; x < width; x++) out[x] = row[x];
}

// Rows of an image, each with room for the whole width and one more sample at each end.
typedef struct {
  uint16_t *y, *u, *v, *near, *far;
  uint8_t *r, *g, *b;
} Rows;

// Sets out to a row of chroma at full size: each sample lies in the middle of the pixels that it stands for, and those
// between two samples are interpolated.
static void chroma(const Dav1dPicture* p, const Rows* rows, int plane, int y, uint16_t* restrict out) {
  const int width = p->p.w, half = (width + 1) / 2;
  uint16_t *restrict near = rows->near + 1, *restrict far = rows->far + 1;
  if (p->p.layout == DAV1D_PIXEL_LAYOUT_I444) {
    samples(p, plane, y, width, out);
    return;
  }
  if (p->p.layout == DAV1D_PIXEL_LAYOUT_I422) {
    samples(p, plane, y, half, near);
    memcpy(far, near, 2 * (size_t)half);
  } else {
    const int down = (p->p.h + 1) / 2, at = y / 2, other = y % 2 ? at + 1 : at - 1;
    samples(p, plane, at, half, near);
    samples(p, plane, other < 0 ? 0 : other >= down ? down - 1 : other, half, far);
  }
  // 16 times a sample of 12 bits fits into the 16 bits of a lane.
  for (int i = 0; i < half; i++) near[i] = (uint16_t)(3 * near[i] + far[i]);
  near[-1] = near[0];
  near[half] = near[half - 1];
  int x = 0;
  for (; x + 8 <= half; x += 8) {
    const v128_t most = wasm_i16x8_add(wasm_i16x8_mul(wasm_v128_load(near + x), wasm_i16x8_splat(3)), wasm_i16x8_splat(8));
    const v128_t left = wasm_u16x8_shr(wasm_i16x8_add(most, wasm_v128_load(near + x - 1)), 4);
    const v128_t right = wasm_u16x8_shr(wasm_i16x8_add(most, wasm_v128_load(near + x + 1)), 4);
    wasm_v128_store(out + 2 * x, wasm_i16x8_shuffle(left, right, 0, 8, 1, 9, 2, 10, 3, 11));
    wasm_v128_store(out + 2 * x + 8, wasm_i16x8_shuffle(left, right, 4, 12, 5, 13, 6, 14, 7, 15));
  }
  for (; x < half; x++) {
    out[2 * x] = (uint16_t)((3 * near[x] + near[x - 1] + 8) >> 4);
    out[2 * x + 1] = (uint16_t)((3 * near[x] + near[x + 1] + 8) >> 4);
  }
}

// Sets out to pixels of three samples each.
static void interleave(const uint8_t* restrict r, const uint8_t* restrict g, const uint8_t* restrict b, int width, uint8_t* restrict out) {
  int x = 0;
  for (; x + 16 <= width; x += 16, r += 16, g += 16, b += 16, out += 48) {
    const v128_t red = wasm_v128_load(r), green = wasm_v128_load(g), blue = wasm_v128_load(b);
    const v128_t first = wasm_i8x16_shuffle(red, green, 0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5);
    const v128_t second = wasm_i8x16_shuffle(red, green, 21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26);
    const v128_t third = wasm_i8x16_shuffle(red, green, 0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0);
    wasm_v128_store(out, wasm_i8x16_shuffle(first, blue, 0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15));
    wasm_v128_store(out + 16, wasm_i8x16_shuffle(second, blue, 0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15));
    wasm_v128_store(out + 32, wasm_i8x16_shuffle(third, blue, 26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31));
  }
  for (; x < width; x++, out += 3) out[0] = *r++, out[1] = *g++, out[2] = *b++;
}

static void convert(const Conversion* c, const Rows* rows, int width, uint8_t* restrict out) {
  const uint16_t *restrict y = rows->y, *restrict u = rows->u, *restrict v = rows->v;
  uint8_t *restrict r = rows->r, *restrict g = rows->g, *restrict b = rows->b;
  const int32_t luma = c->luma, zero = c->zero, middle = c->middle, rv = c->rv, gu = c->gu, gv = c->gv, bu = c->bu;
  if (c->gray) {
    for (int x = 0; x < width; x++) r[x] = g[x] = b[x] = level(y[x] * luma + zero);
  } else if (c->identity) {
    for (int x = 0; x < width; x++) r[x] = level(v[x] * luma + zero), g[x] = level(y[x] * luma + zero), b[x] = level(u[x] * luma + zero);
  } else {
    for (int x = 0; x < width; x++) {
      const int32_t light = y[x] * luma + zero, cb = u[x] - middle, cr = v[x] - middle;
      r[x] = level(light + rv * cr);
      g[x] = level(light - gu * cb - gv * cr);
      b[x] = level(light + bu * cb);
    }
  }
  interleave(r, g, b, width, out);
}

static uint16_t level16(float value) { return (uint16_t)(value < 0 ? 0 : value > 65535.0f ? 65535.0f : value); }

// convert with 16 bits for each sample.
static void deepen(const Conversion* c, const Rows* rows, int width, uint16_t* restrict out) {
  for (int x = 0; x < width; x++, out += 3) {
    const float light = rows->y[x] * c->deep.luma + c->deep.zero;
    if (c->gray) {
      out[0] = out[1] = out[2] = level16(light);
    } else if (c->identity) {
      out[0] = level16(rows->v[x] * c->deep.luma + c->deep.zero);
      out[1] = level16(light);
      out[2] = level16(rows->u[x] * c->deep.luma + c->deep.zero);
    } else {
      const float cb = (float)(rows->u[x] - c->middle), cr = (float)(rows->v[x] - c->middle);
      out[0] = level16(light + c->deep.rv * cr);
      out[1] = level16(light - c->deep.gu * cb - c->deep.gv * cr);
      out[2] = level16(light + c->deep.bu * cb);
    }
  }
}

static int32_t push(const Dav1dPicture* p, const Conversion* c, int32_t most, int32_t deep) {
  const size_t width = (size_t)p->p.w, room = width + 4;
  uint16_t* memory = malloc(room * (5 * 2 + 3));
  const size_t row = (deep ? 6 : 3) * width;
  uint8_t* rgb = malloc(row * (size_t)most);
  if (memory == NULL || rgb == NULL) return kOutOfMemory;
  uint8_t* bytes = (uint8_t*)(memory + 5 * room);
  const Rows rows = {memory, memory + room, memory + 2 * room, memory + 3 * room, memory + 4 * room, bytes, bytes + room, bytes + 2 * room};
  int32_t filled = 0;
  for (int y = 0; y < p->p.h; y++) {
    samples(p, 0, y, p->p.w, rows.y);
    if (!c->gray) {
      chroma(p, &rows, 1, y, rows.u);
      chroma(p, &rows, 2, y, rows.v);
    }
    if (deep) {
      deepen(c, &rows, p->p.w, (uint16_t*)(rgb + row * (size_t)filled));
    } else {
      convert(c, &rows, p->p.w, rgb + row * (size_t)filled);
    }
    if (++filled == most || y == p->p.h - 1) {
      if (!host_rows(rgb, filled, NULL)) return kEnded;
      filled = 0;
    }
  }
  return kDone;
}

// Decodes data to an image of this size. matrix: the matrix coefficients of the container, or -1 for those of the data. full:
// whether samples have their full range. most: rows that the host takes at a time. deep: with 16 bits for each sample.
__attribute__((export_name("decode"))) int32_t decode(uint8_t* data, int32_t size, int32_t width, int32_t height, int32_t matrix,
                                                      int32_t full, int32_t most, int32_t deep) {
  Dav1dSettings settings;
  Dav1dContext* context = NULL;
  Dav1dData input = {0};
  Dav1dPicture picture = {0};
  Conversion conversion = {0};
  dav1d_default_settings(&settings);
  settings.n_threads = 1;
  settings.max_frame_delay = 1;
  settings.all_layers = 0;
  settings.frame_size_limit = (unsigned)width * (unsigned)height;
  if (dav1d_open(&context, &settings) < 0) return kOutOfMemory;
  if (dav1d_data_wrap(&input, data, (size_t)size, keep, NULL) < 0) return kOutOfMemory;
  int result = DAV1D_ERR(EAGAIN);
  while (result == DAV1D_ERR(EAGAIN)) {
    if (input.sz > 0) {
      const int sent = dav1d_send_data(context, &input);
      if (sent < 0 && sent != DAV1D_ERR(EAGAIN)) {
        if (!host_proceed()) return kEnded;
        return sent == DAV1D_ERR(ENOMEM) ? kOutOfMemory : fail("the data can't be decoded");
      }
    }
    result = dav1d_get_picture(context, &picture);
    if (result == DAV1D_ERR(EAGAIN) && input.sz == 0) {
      result = dav1d_get_picture(context, &picture);  // the last one
      if (result == DAV1D_ERR(EAGAIN)) return fail("the data has no image");
    }
  }
  if (!host_proceed()) return kEnded;
  if (result < 0) return result == DAV1D_ERR(ENOMEM) ? kOutOfMemory : fail("the data can't be decoded");
  if (picture.p.w != width || picture.p.h != height) return fail("the data has another size than the file states");
  if (!choose(&conversion, &picture, matrix, full)) return fail("unknown matrix coefficients");
  return push(&picture, &conversion, most, deep);
}
