// Converts LibTorch's exceptions to Failure. Separate from error.h, so that the image code doesn't include LibTorch's
// headers.
#ifndef TORCHHERD_SRC_TRANSLATE_H
#define TORCHHERD_SRC_TRANSLATE_H

#include <c10/util/Exception.h>

#include <new>
#include <string>

#include "error.h"

namespace thd {

// Returns an exception's message without the C++ stack trace that c10::Error::what() includes.
inline std::string text_of(const std::exception& error) {
  const auto* c10_error = dynamic_cast<const c10::Error*>(&error);
  return c10_error == nullptr ? error.what() : c10_error->what_without_backtrace();
}

// Runs body, which calls LibTorch, and converts LibTorch's exceptions to Failure. code: the code of all but lack of
// memory. subject: the prefix of the message.
template <typename Body>
auto translate(thd_code code, const std::string& subject, Body&& body) {
  try {
    return body();
  } catch (const Failure&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const c10::OutOfMemoryError& e) {
    throw Failure(THD_ERROR_OUT_OF_MEMORY, subject + e.what_without_backtrace());
  } catch (const std::exception& e) {
    throw Failure(code, subject + text_of(e));
  }
}

}  // namespace thd

#endif
