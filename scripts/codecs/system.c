// The parts of the system that the C library and the codecs refer to and never need: a module has no files and no streams, and
// ends by a trap.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "host.h"

uint32_t host_work = 0;

#define UNUSED_CALL(name, ...) \
  int32_t name(__VA_ARGS__);   \
  int32_t name(__VA_ARGS__) { return 52; } /* not implemented */

UNUSED_CALL(__imported_wasi_snapshot_preview1_fd_write, int32_t a, int32_t b, int32_t c, int32_t d)
UNUSED_CALL(__imported_wasi_snapshot_preview1_fd_read, int32_t a, int32_t b, int32_t c, int32_t d)
UNUSED_CALL(__imported_wasi_snapshot_preview1_fd_seek, int32_t a, int64_t b, int32_t c, int32_t d)
UNUSED_CALL(__imported_wasi_snapshot_preview1_fd_close, int32_t a)
UNUSED_CALL(__imported_wasi_snapshot_preview1_fd_fdstat_get, int32_t a, int32_t b)
UNUSED_CALL(__imported_wasi_snapshot_preview1_fd_fdstat_set_flags, int32_t a, int32_t b)
UNUSED_CALL(__imported_wasi_snapshot_preview1_fd_prestat_dir_name, int32_t a, int32_t b, int32_t c)
UNUSED_CALL(__imported_wasi_snapshot_preview1_path_open, int32_t a, int32_t b, int32_t c, int32_t d, int32_t e, int64_t f, int64_t g, int32_t h, int32_t i)
UNUSED_CALL(__imported_wasi_snapshot_preview1_environ_get, int32_t a, int32_t b)
UNUSED_CALL(__imported_wasi_snapshot_preview1_clock_time_get, int32_t a, int64_t b, int32_t c)

// There are no folders.
int32_t __imported_wasi_snapshot_preview1_fd_prestat_get(int32_t descriptor, int32_t out);
int32_t __imported_wasi_snapshot_preview1_fd_prestat_get(int32_t descriptor, int32_t out) {
  (void)descriptor, (void)out;
  return 8;  // a bad descriptor
}

// There are no environment variables.
int32_t __imported_wasi_snapshot_preview1_environ_sizes_get(int32_t count, int32_t size);
int32_t __imported_wasi_snapshot_preview1_environ_sizes_get(int32_t count, int32_t size) {
  *(uint32_t*)count = *(uint32_t*)size = 0;
  return 0;
}

_Noreturn void __imported_wasi_snapshot_preview1_proc_exit(int32_t status);
_Noreturn void __imported_wasi_snapshot_preview1_proc_exit(int32_t status) {
  (void)status;
  __builtin_trap();
}

// Returns size bytes, or NULL.
__attribute__((export_name("allocate"))) void* allocate(size_t size) { return malloc(size); }
