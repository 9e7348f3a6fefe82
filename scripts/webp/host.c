// What the WebAssembly module exports.
#include "host.h"

#include <stdlib.h>

#include "src/webp/decode.h"

uint32_t host_coefficients = 0;

// Returns size bytes, or NULL.
__attribute__((export_name("allocate"))) void* allocate(size_t size) { return malloc(size); }

// Decodes a VP8 or VP8L frame of this size to RGB. out: width*height*3 bytes. Returns a VP8StatusCode.
__attribute__((export_name("decode"))) int32_t decode(const uint8_t* frame, size_t size, uint8_t* out, int32_t width,
                                                      int32_t height) {
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) return VP8_STATUS_INVALID_PARAM;
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = out;
  config.output.u.RGBA.stride = width * 3;
  config.output.u.RGBA.size = (size_t)width * height * 3;
  return (int32_t)WebPDecode(frame, size, &config);
}
