// The structs that callers allocate. Their size depends on the header that the caller was compiled against.
#ifndef TORCHHERD_SRC_STRUCTS_H
#define TORCHHERD_SRC_STRUCTS_H

#include <cstddef>
#include <cstring>
#include <string>

#include "error.h"
#include "torchherd.h"

namespace thd {

#define THD_END_OF(type, field) (offsetof(type, field) + sizeof(type::field))

// The end of a struct's required fields, which stays the same within a major version.
constexpr size_t required_size(const thd_tensor_view* /*type*/) { return THD_END_OF(thd_tensor_view, data); }
constexpr size_t required_size(const thd_values* /*type*/) { return THD_END_OF(thd_values, output_high); }
constexpr size_t required_size(const thd_load_options* /*type*/) {
  return THD_END_OF(thd_load_options, device);
}
constexpr size_t required_size(const thd_input* /*type*/) { return THD_END_OF(thd_input, numbers); }
constexpr size_t required_size(const thd_parts* /*type*/) { return THD_END_OF(thd_parts, number_inputs); }
constexpr size_t required_size(const thd_module_info* /*type*/) { return THD_END_OF(thd_module_info, bytes); }
constexpr size_t required_size(const thd_jpeg_info* /*type*/) { return THD_END_OF(thd_jpeg_info, height); }
constexpr size_t required_size(const thd_jpeg_decode_options* /*type*/) {
  return THD_END_OF(thd_jpeg_decode_options, struct_size);
}
constexpr size_t required_size(const thd_resize_cost* /*type*/) { return THD_END_OF(thd_resize_cost, step); }

#undef THD_END_OF

// Returns the size of a caller's struct. Throws Failure(THD_ERROR_INVALID_ARGUMENT) for a size that no header has.
// name: the parameter, for the message.
template <typename T>
size_t size_of_struct(const T* caller, const char* name) {
  static_assert(offsetof(T, struct_size) == 0);
  size_t size = 0;
  std::memcpy(&size, caller, sizeof size);  // the caller's object may be smaller than a T
  const size_t least = required_size(caller);
  if (size < least || size > sizeof(T) || size % alignof(T) != 0) {
    throw Failure(THD_ERROR_INVALID_ARGUMENT,
                  std::string(name) + ": struct_size is " + std::to_string(size) +
                      ", and this library supports " + std::to_string(least) + " to " +
                      std::to_string(sizeof(T)) +
                      ": set it to the sizeof of the struct, and compile against this library's torchherd.h");
  }
  return size;
}

// Returns a copy of a caller's struct, in which the fields beyond its end are zero.
template <typename T>
T read_struct(const T* caller, const char* name) {
  T copy{};
  std::memcpy(&copy, caller, size_of_struct(caller, name));
  return copy;
}

// Copies value into a caller's struct of the given size, and keeps its struct_size.
template <typename T>
void write_struct(T* caller, size_t size, T value) {
  value.struct_size = size;
  std::memcpy(caller, &value, size);
}

}  // namespace thd

#endif
