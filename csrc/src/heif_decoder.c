// torchherd-heif decodes one HEIC image by the system's libheif, which it loads when it starts. The server starts a process of
// it for each image, since libheif and its decoders can neither be stopped nor bounded, and read what a client sends.
//
// Standard input has a request and the file, standard output gets a reply, and then the rows of RGB or RGBA. Before it reads
// the file, the process limits its memory and processor time, and gives up all files, the network and other processes.
//
// With the argument "check" it tells whether libheif is there: its version, or what is missing and the exit status 1.
#include <dlfcn.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// What the server sends before the file. Both ends are on one machine.
typedef struct {
  uint64_t memory;         // bytes of data that the process may have
  uint32_t seconds;        // of processor time
  uint32_t size;           // of the file, in bytes
  uint32_t width, height;  // as the file's boxes say, before it is turned
  uint32_t channels;       // 3: RGB, 4: RGBA
} Request;

// What the reply begins with. A text follows, but for DONE.
enum { DONE = 0, BROKEN = 1, UNSUPPORTED = 2, OUT_OF_MEMORY = 3 };

// The parts of libheif's API that are used here, which are those of its version 1.0.
typedef struct {
  int code, subcode;
  const char* message;
} HeifError;
enum { HEIF_UNSUPPORTED_FILE = 3, HEIF_UNSUPPORTED_FEATURE = 4, HEIF_MEMORY = 6 };
enum {
  HEIF_RGB = 1,
  HEIF_INTERLEAVED_RGB = 10,
  HEIF_INTERLEAVED_RGBA = 11,
  HEIF_INTERLEAVED = 10,
  HEIF_HEVC = 1
};
typedef struct {
  uint8_t version, ignore_transformations;  // and what later versions have
} HeifOptions;

static struct {
  const char* (*get_version)(void);
  int (*have_decoder_for_format)(int format);
  void* (*context_alloc)(void);
  HeifError (*context_read_from_memory_without_copy)(void* context, const void* data, size_t size,
                                                     const void* options);
  HeifError (*context_get_primary_image_handle)(void* context, void** handle);
  HeifOptions* (*decoding_options_alloc)(void);
  HeifError (*decode_image)(const void* handle, void** image, int colours, int chroma,
                            const HeifOptions* options);
  int (*image_get_width)(const void* image, int channel);
  int (*image_get_height)(const void* image, int channel);
  const uint8_t* (*image_get_plane_readonly)(const void* image, int channel, int* stride);
  void (*context_set_max_decoding_threads)(void* context, int count);  // NULL before version 1.13
} heif;

// Returns what is missing, or NULL.
static const char* load(void) {
  void* library = dlopen("libheif.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return "libheif isn't there: install it (Debian and Ubuntu: apt-get install libheif1)";
  const struct {
    const char* name;
    void* to;
  } functions[] = {
      {"heif_get_version", (void*)&heif.get_version},
      {"heif_have_decoder_for_format", (void*)&heif.have_decoder_for_format},
      {"heif_context_alloc", (void*)&heif.context_alloc},
      {"heif_context_read_from_memory_without_copy", (void*)&heif.context_read_from_memory_without_copy},
      {"heif_context_get_primary_image_handle", (void*)&heif.context_get_primary_image_handle},
      {"heif_decoding_options_alloc", (void*)&heif.decoding_options_alloc},
      {"heif_decode_image", (void*)&heif.decode_image},
      {"heif_image_get_width", (void*)&heif.image_get_width},
      {"heif_image_get_height", (void*)&heif.image_get_height},
      {"heif_image_get_plane_readonly", (void*)&heif.image_get_plane_readonly},
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    void* function = dlsym(library, functions[i].name);
    if (function == NULL) return "this libheif is too old: torchherd needs 1.3 or newer";
    memcpy(functions[i].to, (const void*)&function, sizeof function);
  }
  void* threads = dlsym(library, "heif_context_set_max_decoding_threads");
  memcpy((void*)&heif.context_set_max_decoding_threads, (const void*)&threads, sizeof threads);
  // Later versions load their decoders here, and not when they need them.
  void* start = dlsym(library, "heif_init");
  if (start != NULL) {
    HeifError (*init)(void*);
    memcpy((void*)&init, (const void*)&start, sizeof start);
    if (init(NULL).code != 0) return "libheif can't start";
  }
  if (!heif.have_decoder_for_format(HEIF_HEVC))
    return "libheif has no decoder of HEVC: install its plugin (Debian and Ubuntu: apt-get install "
           "libheif-plugin-libde265)";
  return NULL;
}

static int write_all(const void* data, size_t size) {
  for (const char* from = data; size > 0;) {
    const ssize_t n = write(STDOUT_FILENO, from, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return 0;
    from += n;
    size -= (size_t)n;
  }
  return 1;
}

static int read_all(void* data, size_t size) {
  for (char* to = data; size > 0;) {
    const ssize_t n = read(STDIN_FILENO, to, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return 0;
    to += n;
    size -= (size_t)n;
  }
  return 1;
}

static int reply(uint32_t status, const char* text) {
  const int written = write_all(&status, sizeof status) && write_all(text, strlen(text));
  return written ? 0 : 1;
}

static int reply_error(HeifError error) {
  uint32_t status = BROKEN;
  if (error.code == HEIF_UNSUPPORTED_FILE || error.code == HEIF_UNSUPPORTED_FEATURE) status = UNSUPPORTED;
  if (error.code == HEIF_MEMORY) status = OUT_OF_MEMORY;
  return reply(status, error.message);
}

// Denies all files. Older kernels lack this, and seccomp below denies them as well.
static void give_up_files(void) {
  struct landlock_ruleset_attr rules = {.handled_access_fs =
                                            LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE |
                                            LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_WRITE_FILE};
  const int ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
  if (ruleset < 0) return;
  syscall(SYS_landlock_restrict_self, ruleset, 0);
  close(ruleset);
}

#ifdef __x86_64__
#define MACHINE AUDIT_ARCH_X86_64
#endif
#ifdef __aarch64__
#define MACHINE AUDIT_ARCH_AARCH64
#endif

// Allows what computing needs, and nothing that reaches outside the process. Returns 0 if the kernel doesn't enforce it.
static int restrict_calls(void) {
  static const int allowed[] = {
      SYS_read,
      SYS_write,
      SYS_close,
      SYS_mmap,
      SYS_munmap,
      SYS_mremap,
      SYS_mprotect,
      SYS_brk,
      SYS_madvise,
      SYS_futex,
      SYS_exit,
      SYS_exit_group,
      SYS_rt_sigreturn,
      SYS_rt_sigprocmask,
      SYS_rt_sigaction,
      SYS_sched_yield,
      SYS_sched_getaffinity,
      SYS_getrandom,
      SYS_clock_gettime,
      SYS_clock_nanosleep,
      SYS_set_robust_list,
      SYS_gettid,
      SYS_getpid,
      SYS_tgkill,
#ifdef SYS_rseq
      SYS_rseq,
#endif
  };
  enum { COUNT = sizeof allowed / sizeof *allowed, HEAD = 3, CLONE = 6 };
  struct sock_filter filter[HEAD + CLONE + 2 * COUNT + 1];
  struct sock_filter* next = filter;
  const struct sock_filter deny = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
  const struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  *next++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
  *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0);
  *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  // Threads, and no processes. The flags of clone3 are out of a filter's sight, and without it glibc uses clone.
  *next++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4);
  *next++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]));
  *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1);
  *next++ = allow;
  *next++ = deny;
  for (int i = 0; i < COUNT; i++) {
    *next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[i], 0, 1);
    *next++ = allow;
  }
  // ENOSYS rather than EPERM: the C library then tries another call.
  *next++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
  const struct sock_fprog program = {.len = (unsigned short)(next - filter), .filter = filter};
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// Keeps the memory of threads small: a stack counts as a whole, and so do heaps of their own.
static void share_memory(void) {
  enum { STACK = 512 << 10 };
  pthread_attr_t attributes;
  mallopt(M_ARENA_MAX, 1);
  if (pthread_attr_init(&attributes) != 0) return;
  if (pthread_attr_setstacksize(&attributes, STACK) == 0) pthread_setattr_default_np(&attributes);
}

static void limit(int resource, uint64_t value) {
  const struct rlimit both = {value, value};
  setrlimit(resource, &both);
}

static int decode(const Request* request, const uint8_t* file) {
  void* context = heif.context_alloc();
  void* handle = NULL;
  void* image = NULL;
  HeifOptions* options = heif.decoding_options_alloc();
  if (context == NULL || options == NULL) return reply(OUT_OF_MEMORY, "out of memory");
  options->ignore_transformations = 1;
  // The server has one core for this image. Tiles would be decoded in threads.
  if (heif.context_set_max_decoding_threads != NULL) heif.context_set_max_decoding_threads(context, 0);
  HeifError error = heif.context_read_from_memory_without_copy(context, file, request->size, NULL);
  if (error.code == 0) error = heif.context_get_primary_image_handle(context, &handle);
  const int chroma = request->channels == 4 ? HEIF_INTERLEAVED_RGBA : HEIF_INTERLEAVED_RGB;
  if (error.code == 0) error = heif.decode_image(handle, &image, HEIF_RGB, chroma, options);
  if (error.code != 0) return reply_error(error);
  const int width = heif.image_get_width(image, HEIF_INTERLEAVED);
  const int height = heif.image_get_height(image, HEIF_INTERLEAVED);
  if (width != (int)request->width || height != (int)request->height)
    return reply(BROKEN, "the image has another size than its boxes say");
  int stride = 0;
  const uint8_t* rows = heif.image_get_plane_readonly(image, HEIF_INTERLEAVED, &stride);
  if (rows == NULL) return reply(BROKEN, "the image has no pixels");
  if (reply(DONE, "") != 0) return 1;
  for (int y = 0; y < height; y++) {
    if (!write_all(rows + (ptrdiff_t)y * stride, (size_t)width * request->channels)) return 1;
  }
  return 0;
}

int main(int count, char** arguments) {
  const char* missing = load();
  if (count == 2 && strcmp(arguments[1], "check") == 0) {
    puts(missing == NULL ? heif.get_version() : missing);
    return missing != NULL;
  }
  if (missing != NULL) return reply(UNSUPPORTED, missing);
  Request request;
  if (!read_all(&request, sizeof request)) return 1;
  share_memory();
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_DATA, request.memory);
  limit(RLIMIT_CPU, request.seconds);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return reply(UNSUPPORTED, "the kernel can't restrict the decoder");
  give_up_files();
  if (!restrict_calls()) return reply(UNSUPPORTED, "the kernel can't restrict the decoder");
  uint8_t* file = malloc(request.size);
  if (file == NULL) return reply(OUT_OF_MEMORY, "out of memory");
  if (!read_all(file, request.size)) return 1;
  return decode(&request, file);
}
