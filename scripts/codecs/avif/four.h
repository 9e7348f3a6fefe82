// Four samples at a time, for the inverse transforms of dav1d.patch.
#ifndef FOUR_H
#define FOUR_H

#include <stdint.h>
#include <wasm_simd128.h>

typedef int32_t Four __attribute__((vector_size(16)));

static inline Four four(int32_t value) { return (Four){value, value, value, value}; }

static inline Four clip_four(Four value, Four least, Four most) {
  return (Four)wasm_i32x4_min(wasm_i32x4_max((v128_t)value, (v128_t)least), (v128_t)most);
}

static inline int any_four(Four value) { return wasm_v128_any_true((v128_t)value); }

static inline Four load_int16(const int16_t* from) { return (Four)wasm_i32x4_load16x4(from); }
static inline Four load_int32(const int32_t* from) { return (Four)wasm_v128_load(from); }

// Sets row I of out, whose rows are stride apart, to lane I of each column.
static inline void transpose_four(const Four* columns, Four* out, ptrdiff_t stride) {
  const Four a = __builtin_shufflevector(columns[0], columns[1], 0, 4, 1, 5), b = __builtin_shufflevector(columns[2], columns[3], 0, 4, 1, 5);
  const Four c = __builtin_shufflevector(columns[0], columns[1], 2, 6, 3, 7), d = __builtin_shufflevector(columns[2], columns[3], 2, 6, 3, 7);
  out[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  out[stride] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  out[2 * stride] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  out[3 * stride] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// Adds to four pixels of 8 bits, within their range.
static inline void add_uint8(uint8_t* pixels, Four value) {
  const v128_t old = wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(pixels)));
  const v128_t sum = wasm_i32x4_add(old, (v128_t)value), narrow = wasm_i16x8_narrow_i32x4(sum, sum);
  wasm_v128_store32_lane(pixels, wasm_u8x16_narrow_i16x8(narrow, narrow), 0);
}

// Adds to four pixels of more bits, within 0 to most.
static inline void add_uint16(uint16_t* pixels, Four value, int32_t most) {
  const v128_t old = wasm_u32x4_load16x4(pixels);
  const v128_t sum = (v128_t)clip_four((Four)old + value, four(0), four(most));
  wasm_v128_store64_lane(pixels, wasm_u16x8_narrow_i32x4(sum, sum), 0);
}

#endif
