// MKL, which is a part of LibTorch, ends the process when it is loaded in a working directory that has been deleted. The
// functions in .preinit_array run before those of any library, so this one leaves such a directory in time.

#include <errno.h>
#include <limits.h>
#include <unistd.h>

static void leave_deleted_folder(void) {
  char path[PATH_MAX];
  if (getcwd(path, sizeof path) == NULL && errno == ENOENT && chdir("/") != 0) {
    _exit(1);
  }
}

__attribute__((section(".preinit_array"), used)) static void (*const leave)(void) = leave_deleted_folder;
