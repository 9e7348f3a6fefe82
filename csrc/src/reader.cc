#include "reader.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.h"

namespace thd {
namespace {

size_t size_of(int file) {
  struct stat status{};
  require(fstat(file, &status) == 0, "file: not an open file descriptor");
  return static_cast<size_t>(status.st_size);
}

}  // namespace

size_t Reader::read(uint64_t position, void* target, size_t count, const char* /*what*/) const {
  const size_t got = position < size_ ? fetch(position, target, std::min(count, size_ - position)) : 0;
  if (got < count) {
    std::memset(static_cast<uint8_t*>(target) + got, 0, count - got);
    short_read_ = true;
  }
  return got;
}

FileReader::FileReader(int file) : Reader(size_of(file)), file_(file) {}

size_t FileReader::fetch(uint64_t position, void* target, size_t count) const {
  size_t got = 0;
  while (got < count) {
    const ssize_t n =
        pread(file_, static_cast<uint8_t*>(target) + got, count - got, static_cast<off_t>(position + got));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  return got;
}

size_t MemoryReader::fetch(uint64_t position, void* target, size_t count) const {
  std::memcpy(target, data_ + position, count);
  return count;
}

}  // namespace thd
