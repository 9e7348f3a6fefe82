// The instruction sets of this processor, for code that has a plain and a vectorized version.
#ifndef TORCHHERD_SRC_CPU_H
#define TORCHHERD_SRC_CPU_H

// THD_PLAIN excludes the vectorized versions, so that a test can compare both.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(THD_PLAIN)
#define THD_AVX2 1
#include <immintrin.h>
#else
#define THD_AVX2 0
#endif

namespace thd {

inline bool has_avx2() {
#if THD_AVX2
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
#else
  return false;
#endif
}

}  // namespace thd

#endif
