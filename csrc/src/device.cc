#include "device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/TensorBase.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <string>
#include <system_error>

#include "error.h"
#include "translate.h"

namespace {

using thd::Failure;
using thd::require;

#ifdef __APPLE__
constexpr const char* kCudaLibrary = "libtorch_cuda.dylib";
#else
constexpr const char* kCudaLibrary = "libtorch_cuda.so";
#endif

// Returns LibTorch's directory, with links resolved. LibTorch's CUDA library is there too, and locates CUDA's own
// libraries relative to it.
std::string libtorch_directory() {
  Dl_info info;
  const auto* address = reinterpret_cast<const void*>(&at::globalContext);
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return ".";
  char* real = realpath(info.dli_fname, nullptr);
  const std::string path = real == nullptr ? info.dli_fname : real;
  free(real);  // allocated by realpath
  return path.substr(0, path.find_last_of('/'));
}

// Loads a library, which is never unloaded. Returns what went wrong, or an empty string.
std::string load_library(const std::string& path, int mode) {
  if (dlopen(path.c_str(), RTLD_NOW | mode) != nullptr) return "";
  const char* reason = dlerror();
  return reason == nullptr ? path + " can't be loaded" : reason;
}

// Loads LibTorch's CUDA library, which registers itself with LibTorch, also on a machine without CUDA's driver. Returns
// what went wrong, or an empty string.
std::string load_cuda_library() { return load_library(libtorch_directory() + "/" + kCudaLibrary, RTLD_GLOBAL); }

// Is load_cuda_library on a machine with CUDA's driver, once per process.
const std::string& load_cuda() {
  static std::once_flag once;
  static std::string problem;
  std::call_once(once, [] {
#ifdef __linux__
    // The library is a gigabyte, and useless without the driver.
    if (dlopen("libcuda.so.1", RTLD_LAZY) == nullptr) {
      problem = "no CUDA driver is installed (libcuda.so.1)";
      return;
    }
#endif
    problem = load_cuda_library();
  });
  return problem;
}

// Returns the compute capability of a CUDA device from the driver: LibTorch's own function needs CUDA's headers.
int cuda_capability(int index) {
  constexpr int kMajor = 75;                         // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
  constexpr int kMinor = 76;                         // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY);  // already loaded, and never unloaded
  if (driver == nullptr) return 0;
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto attribute = reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  int device = 0;
  int major = 0;
  int minor = 0;
  if (get == nullptr || attribute == nullptr || get(&device, index) != 0 ||
      attribute(&major, kMajor, device) != 0 || attribute(&minor, kMinor, device) != 0) {
    return 0;
  }
  return 10 * major + minor;
}

bool mentions(const std::string& text, std::initializer_list<const char*> words) {
  return std::ranges::any_of(words, [&](const char* word) { return text.find(word) != std::string::npos; });
}

// Returns what is wrong with a library of operators, by the dynamic linker's message without the library's name.
std::string explain_link_error(const std::string& message) {
  if (mentions(message, {"undefined symbol: Py", "undefined symbol: _Py", "libpython", "libtorch_python"})) {
    return "it is an extension of Python, and there is no Python here; build it without (" + message + ")";
  }
  if (mentions(message, {"libtorch_cuda", "libc10_cuda", "libcuda"})) {
    return "it was built for CUDA, whose libraries aren't here; use its build for the CPU (" + message + ")";
  }
  if (mentions(message, {"undefined symbol", "symbol not found"})) {
    return "most likely it was built for another PyTorch version; use its build for PyTorch " TORCH_VERSION
           " (" +
           message + ")";
  }
  return message;
}

}  // namespace

namespace thd {

c10::Device usable_device(const char* name) {
  const std::string quoted = std::string("device \"") + name + "\": ";
  c10::Device device(c10::kCPU);
  try {
    device = c10::Device(name);
  } catch (const c10::Error&) {
    throw Failure(THD_ERROR_DEVICE, quoted + "no such device; use cpu, cuda or cuda:N");
  }
  if (device.is_cpu()) return device;
  if (!device.is_cuda()) throw Failure(THD_ERROR_DEVICE, quoted + "only cpu and cuda are supported");
  if (const std::string& problem = load_cuda(); !problem.empty()) {
    throw Failure(THD_ERROR_DEVICE, quoted + "CUDA can't be used: " + problem);
  }
  const int count = at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  if (count == 0) throw Failure(THD_ERROR_DEVICE, quoted + "no CUDA device found; is the driver installed?");
  if (device.index() >= count) {
    throw Failure(THD_ERROR_DEVICE, quoted + "this machine has " + std::to_string(count) + " CUDA device(s)");
  }
  return device.has_index() ? device : c10::Device(c10::kCUDA, 0);
}

}  // namespace thd

extern "C" {

void thd_api_version(uint32_t* major, uint32_t* minor) {
  if (major != nullptr) *major = THD_API_VERSION_MAJOR;
  if (minor != nullptr) *minor = THD_API_VERSION_MINOR;
}

const char* thd_libtorch_version(void) { return TORCH_VERSION; }

thd_error* thd_set_num_threads(int32_t threads) {
  return thd::guard([&] {
    require(threads >= 1, "threads must be at least 1");
    at::set_num_threads(threads);
  });
}

int32_t thd_num_threads(void) { return at::get_num_threads(); }

void thd_release_threads(void) {
  // Found at run time, as it belongs to LibTorch's own OpenMP library.
  static const auto pause = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "omp_pause_resource_all"));
  constexpr int soft = 1;  // omp_pause_soft: settings of the thread are kept
  if (pause != nullptr) pause(soft);
}

void thd_release_memory(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

thd_error* thd_device_check(const char* device) {
  return thd::guard([&] {
    require(device != nullptr, "device must not be NULL");
    thd::usable_device(device);
  });
}

thd_error* thd_device_capability(const char* device, int32_t* out) {
  return thd::guard([&] {
    require(device != nullptr && out != nullptr, "no pointer argument may be NULL");
    const c10::Device usable = thd::usable_device(device);
    *out = usable.is_cuda() ? cuda_capability(usable.index()) : 0;
  });
}

thd_error* thd_load_operators(const char* path) {
  return thd::guard([&] {
    require(path != nullptr, "path must not be NULL");
    const std::string subject = std::string(path) + ": ";
    // A name without a slash would be searched in the system's folders.
    if (access(path, R_OK) != 0)
      throw Failure(THD_ERROR_NOT_FOUND, subject + std::generic_category().message(errno));
    thd::translate(THD_ERROR_LIBRARY, subject, [&] {
      // Not RTLD_GLOBAL, as in torch.ops.load_library: the symbols of an operators' library would take the place of equal
      // ones in packages, which are loaded later.
      const std::string file = strchr(path, '/') == nullptr ? std::string("./") + path : path;
      std::string problem = load_library(file, RTLD_LOCAL);
      if (mentions(problem, {"libtorch_cuda", "libc10_cuda"}) && load_cuda_library().empty()) {
        problem = load_library(file, RTLD_LOCAL);
      }
      if (problem.starts_with(file + ": ")) problem.erase(0, file.size() + 2);
      if (!problem.empty()) throw Failure(THD_ERROR_LIBRARY, subject + explain_link_error(problem));
    });
  });
}

}  // extern "C"
