// Sources that LibTorch reads a TorchScript file from: an open file or memory.
#ifndef TORCHHERD_SRC_READER_H
#define TORCHHERD_SRC_READER_H

#include <caffe2/serialize/read_adapter_interface.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace thd {

// Reads at any position. LibTorch's own readers can't be used: the one for files takes a path, which may name another
// file when it is opened, and none of them reports a short read.
class Reader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit Reader(size_t size) : size_(size) {}

  size_t size() const override { return size_; }

  // Fills what can't be read with zeros: LibTorch doesn't always check the number of bytes read.
  size_t read(uint64_t position, void* target, size_t count, const char* what) const override;

  // Reports whether a read was short. LibTorch reads beyond size only if the content is corrupt.
  bool short_read() const { return short_read_; }

 private:
  // Returns the number of bytes read.
  virtual size_t fetch(uint64_t position, void* target, size_t count) const = 0;

  size_t size_;
  mutable std::atomic<bool> short_read_ = false;
};

// Reads a file that the caller keeps open. Its position is neither used nor changed.
class FileReader : public Reader {
 public:
  // Throws Failure(THD_ERROR_INVALID_ARGUMENT) if the descriptor isn't open.
  explicit FileReader(int file);

 private:
  size_t fetch(uint64_t position, void* target, size_t count) const override;

  int file_;
};

// Reads memory that the caller owns.
class MemoryReader : public Reader {
 public:
  MemoryReader(const void* data, size_t size) : Reader(size), data_(static_cast<const uint8_t*>(data)) {}

 private:
  size_t fetch(uint64_t position, void* target, size_t count) const override;

  const uint8_t* data_;
};

}  // namespace thd

#endif
