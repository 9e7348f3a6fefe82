// What a TorchScript file is read from: an open file, or memory.
#ifndef TORCHHERD_SRC_READER_H
#define TORCHHERD_SRC_READER_H

#include <caffe2/serialize/read_adapter_interface.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace thd {

// Reads at any place. LibTorch's own readers can't be used: the one for files wants a path, which may lead to another file
// by the time that it is opened, and none of them tells whether all was there that it was asked for.
class Reader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit Reader(size_t size) : size_(size) {}

  size_t size() const override { return size_; }

  // What can't be read is zero: LibTorch doesn't always look at how much came.
  size_t read(uint64_t position, void* target, size_t count, const char* what) const override;

  // Whether a read got less than it asked for. LibTorch asks for nothing beyond size, unless the content is broken.
  bool fell_short() const { return fell_short_; }

 private:
  // Returns how much was read.
  virtual size_t fetch(uint64_t position, void* target, size_t count) const = 0;

  size_t size_;
  mutable std::atomic<bool> fell_short_ = false;
};

// A file that somebody else holds open. Its position is neither used nor changed.
class FileReader : public Reader {
 public:
  // Throws Failure(THD_ERROR_INVALID_ARGUMENT) when the file isn't open.
  explicit FileReader(int file);

 private:
  size_t fetch(uint64_t position, void* target, size_t count) const override;

  int file_;
};

// Memory that somebody else owns.
class MemoryReader : public Reader {
 public:
  MemoryReader(const void* data, size_t size) : Reader(size), data_(static_cast<const uint8_t*>(data)) {}

 private:
  size_t fetch(uint64_t position, void* target, size_t count) const override;

  const uint8_t* data_;
};

}  // namespace thd

#endif
