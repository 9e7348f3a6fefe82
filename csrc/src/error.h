// Errors: exceptions inside the library, a thd_error outside.
#ifndef TORCHHERD_SRC_ERROR_H
#define TORCHHERD_SRC_ERROR_H

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "torchherd.h"

struct thd_error {
  thd_code code;
  std::string message;
};

namespace thd {

// The exception that the library's own code throws: a code for the caller and a message for people.
class Failure : public std::exception {
 public:
  Failure(thd_code code, std::string message) : code_(code), message_(std::move(message)) {}
  thd_code code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  thd_code code_;
  std::string message_;
};

// Throws unless the condition holds. rule: the rule that the caller broke.
inline void require(bool condition, const char* rule) {
  if (!condition) throw Failure(THD_ERROR_INVALID_ARGUMENT, rule);
}

// Makes an error without throwing. If there is no memory for it, returns a static error, which thd_error_free doesn't
// delete.
thd_error* make_error(thd_code code, const char* message) noexcept;

// Runs body and converts what it throws to an owned error. LibTorch's exceptions derive from std::exception. Those that
// need a code of their own are converted to Failure where they occur (translate.h), so that the image code doesn't
// include LibTorch's headers.
template <typename Body>
thd_error* guard(Body&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure& e) {
    return make_error(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return make_error(THD_ERROR_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return make_error(THD_ERROR_INTERNAL, e.what());
  } catch (...) {
    return make_error(THD_ERROR_INTERNAL, "an exception of unknown type");
  }
}

}  // namespace thd

#endif
