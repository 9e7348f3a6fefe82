// Encodes an image as the AV1 data of an AVIF: one key frame, of 8 bits and the full range, 4:2:0 or without chroma.
#include <string.h>

#include "aom/aom_encoder.h"
#include "aom/aomcx.h"
#include "host.h"

// Of libaom's speeds for still images the fastest but for two, which the other two equal in this version.
enum { SPEED = 9 };

// Rows that are converted between two questions whether to go on.
enum { ROWS = 64 };

static aom_codec_ctx_t encoder;
static const aom_codec_cx_pkt_t* packet;

// The data of the last encode.
__attribute__((export_name("data"))) const uint8_t* data(void) { return packet->data.frame.buf; }
__attribute__((export_name("size"))) uint32_t size(void) { return (uint32_t)packet->data.frame.sz; }

static uint8_t level(int32_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

// A conversion to YCbCr of BT.601, with 16 bits after the point.
static uint8_t luma(const uint8_t* p) { return (uint8_t)((19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 32768) >> 16); }

static void fill_luma(aom_image_t* image, const uint8_t* pixels, int32_t step) {
  for (uint32_t y = 0; y < image->d_h; y++) {
    if (y % ROWS == 0) host_check();
    uint8_t* out = image->planes[AOM_PLANE_Y] + (ptrdiff_t)y * image->stride[AOM_PLANE_Y];
    for (uint32_t x = 0; x < image->d_w; x++, pixels += step) out[x] = image->monochrome ? *pixels : luma(pixels);
  }
}

// A sample of chroma is the average of four pixels; those of the last row and column are repeated.
static void fill_chroma(aom_image_t* image, const uint8_t* pixels, int32_t step) {
  const uint32_t width = image->d_w, height = image->d_h;
  for (uint32_t y = 0; y < height; y += 2) {
    if (y % ROWS == 0) host_check();
    const uint8_t* above = pixels + (size_t)y * width * step;
    const uint8_t* below = y + 1 < height ? above + (size_t)width * step : above;
    uint8_t* u = image->planes[AOM_PLANE_U] + (ptrdiff_t)(y / 2) * image->stride[AOM_PLANE_U];
    uint8_t* v = image->planes[AOM_PLANE_V] + (ptrdiff_t)(y / 2) * image->stride[AOM_PLANE_V];
    for (uint32_t x = 0; x < width; x += 2) {
      const size_t left = (size_t)x * step, right = x + 1 < width ? left + step : left;
      int32_t sum[3];  // of four
      for (int c = 0; c < 3; c++) sum[c] = above[left + c] + above[right + c] + below[left + c] + below[right + c];
      u[x / 2] = level(((-11059 * sum[0] - 21709 * sum[1] + 32768 * sum[2] + (1 << 17)) >> 18) + 128);
      v[x / 2] = level(((32768 * sum[0] - 27439 * sum[1] - 5329 * sum[2] + (1 << 17)) >> 18) + 128);
    }
  }
}

// Encodes rows of pixels, which begin `step` bytes after each other and have colours of three bytes, or one byte. quantizer: 0,
// which loses nothing of the planes, to 63.
__attribute__((export_name("encode"))) int32_t encode(const uint8_t* pixels, int32_t width, int32_t height, int32_t step, int32_t colours,
                                                      int32_t quantizer) {
  aom_codec_enc_cfg_t config;
  if (aom_codec_enc_config_default(aom_codec_av1_cx(), &config, AOM_USAGE_ALL_INTRA) != AOM_CODEC_OK) return kBroken;
  config.g_w = (unsigned)width;
  config.g_h = (unsigned)height;
  config.g_limit = 1;
  config.g_threads = 1;
  config.monochrome = colours == 1;
  config.rc_end_usage = AOM_Q;
  config.rc_min_quantizer = config.rc_max_quantizer = (unsigned)quantizer;
  if (aom_codec_enc_init(&encoder, aom_codec_av1_cx(), &config, 0) != AOM_CODEC_OK) return kBroken;
  aom_codec_control(&encoder, AOME_SET_CPUUSED, SPEED);
  aom_codec_control(&encoder, AOME_SET_CQ_LEVEL, quantizer);
  aom_codec_control(&encoder, AV1E_SET_COLOR_RANGE, AOM_CR_FULL_RANGE);
  aom_codec_control(&encoder, AV1E_SET_COLOR_PRIMARIES, AOM_CICP_CP_BT_709);
  aom_codec_control(&encoder, AV1E_SET_TRANSFER_CHARACTERISTICS, AOM_CICP_TC_SRGB);
  aom_codec_control(&encoder, AV1E_SET_MATRIX_COEFFICIENTS, AOM_CICP_MC_BT_601);
  if (quantizer == 0) aom_codec_control(&encoder, AV1E_SET_LOSSLESS, 1);
  aom_image_t* image = aom_img_alloc(NULL, AOM_IMG_FMT_I420, (unsigned)width, (unsigned)height, 32);
  if (image == NULL) return kOutOfMemory;
  image->range = AOM_CR_FULL_RANGE;
  image->monochrome = colours == 1;
  fill_luma(image, pixels, step);
  if (colours == 1) {
    const size_t of_chroma = (size_t)image->stride[AOM_PLANE_U] * ((image->d_h + 1) / 2);
    memset(image->planes[AOM_PLANE_U], 128, of_chroma);
    memset(image->planes[AOM_PLANE_V], 128, of_chroma);
  } else {
    fill_chroma(image, pixels, step);
  }
  if (aom_codec_encode(&encoder, image, 0, 1, 0) != AOM_CODEC_OK) return kBroken;
  aom_img_free(image);
  aom_codec_iter_t position = NULL;
  do {
    packet = aom_codec_get_cx_data(&encoder, &position);
  } while (packet != NULL && packet->kind != AOM_CODEC_CX_FRAME_PKT);
  return packet == NULL ? kBroken : kDone;
}
