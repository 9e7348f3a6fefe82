#include "error.h"

namespace {

// The text is short enough to be stored inside the string.
// NOLINTNEXTLINE(bugprone-throwing-static-initialization)
thd_error no_memory_for_error{.code = THD_ERROR_OUT_OF_MEMORY, .message = "out of memory"};

}  // namespace

namespace thd {

thd_error* make_error(thd_code code, const char* message) noexcept {
  try {
    return new thd_error{.code = code, .message = message};
  } catch (...) {
    return &no_memory_for_error;
  }
}

}  // namespace thd

extern "C" {

thd_code thd_error_code(const thd_error* error) { return error == nullptr ? THD_OK : error->code; }

const char* thd_error_message(const thd_error* error) { return error == nullptr ? "" : error->message.c_str(); }

void thd_error_free(thd_error* error) {
  if (error != &no_memory_for_error) delete error;
}

}  // extern "C"
