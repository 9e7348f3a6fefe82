// Decodes a frame of a WebP. Its work is counted in coefficients of VP8.
#include "host.h"
#include "src/webp/decode.h"

// Decodes a VP8 or VP8L frame of this size to RGB or RGBA. frame: the bitstream, or a chunk of alpha and a VP8 chunk. out:
// width*height*channels bytes. Returns a VP8StatusCode.
__attribute__((export_name("decode"))) int32_t decode(const uint8_t* frame, size_t size, uint8_t* out, int32_t width,
                                                      int32_t height, int32_t channels) {
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) return VP8_STATUS_INVALID_PARAM;
  config.output.colorspace = channels == 4 ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = out;
  config.output.u.RGBA.stride = width * channels;
  config.output.u.RGBA.size = (size_t)width * height * channels;
  return (int32_t)WebPDecode(frame, size, &config);
}
