// What libwebp, as a WebAssembly module, asks of its host.
#ifndef HOST_H
#define HOST_H

#include <stdint.h>

// The number of coefficients that were decoded since the last call of host_proceed.
extern uint32_t host_coefficients;

// Takes the number of coefficients decoded since the last call. Returns 0 if the decoding is to end.
__attribute__((import_module("host"), import_name("continue"))) int32_t host_continue(uint32_t coefficients);

static inline int host_proceed(void) {
  const uint32_t coefficients = host_coefficients;
  host_coefficients = 0;
  return host_continue(coefficients);
}

#endif
