// What the codecs, as WebAssembly modules, ask of their host.
#ifndef HOST_H
#define HOST_H

#include <stddef.h>
#include <stdint.h>

// Takes rows from the top: of RGB, or of samples of 16 bits, if the host asked for them. alpha: a byte for each pixel, or NULL.
// Returns 0 if the decoding is to end.
__attribute__((import_module("host"), import_name("rows"))) int32_t host_rows(const uint8_t* pixels, int32_t rows, const uint8_t* alpha);

// Takes the work done since the last call, in units that the module defines. Returns 0 if the decoding is to end.
__attribute__((import_module("host"), import_name("continue"))) int32_t host_continue(uint32_t work);

// The work done since the last call of host_proceed.
extern uint32_t host_work;

static inline int host_proceed(void) {
  const uint32_t work = host_work;
  host_work = 0;
  return host_continue(work);
}

// Ends the module by a trap if it is to end.
static inline void host_check(void) {
  if (!host_proceed()) __builtin_trap();
}

// What decode and encode return.
enum { kDone = 0, kBroken = 1, kOutOfMemory = 2, kEnded = 3 };

#endif
