#include "graphs.h"

#include <ATen/ops/empty_like.h>
#include <dlfcn.h>

#include <exception>
#include <string>

#include "error.h"

namespace thd {
namespace {

// TorchScript profiles the first run of a shape and compiles in the second. Neither can be recorded.
constexpr int kRunsToWarm = 2;

// Each graph keeps memory for its input and output, and clients choose the shapes if images may have any size. Further
// shapes run without a graph.
constexpr size_t kMaxShapes = 64;

// Returns the directory of this library, where libtorchherd_cuda is too.
std::string own_directory() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&own_directory), &info) == 0 || info.dli_fname == nullptr)
    return ".";
  const std::string path = info.dli_fname;
  return path.substr(0, path.find_last_of('/'));
}

std::unique_ptr<GraphRecorder> make_recorder() {
  const std::string path = own_directory() + "/libtorchherd_cuda.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // never unloaded
  void* symbol = library == nullptr ? nullptr : dlsym(library, "thd_cuda_graph_recorder");
  if (symbol == nullptr) {
    const char* reason = dlerror();
    throw Failure(THD_ERROR_DEVICE,
                  std::string("CUDA graphs are not available: ") + (reason == nullptr ? path : reason) +
                      "; that library is built only with a CUDA build of LibTorch and CUDA's headers");
  }
  return std::unique_ptr<GraphRecorder>(reinterpret_cast<GraphRecorder* (*)()>(symbol)());
}

}  // namespace

Graphs::Graphs(const c10::Stream& stream) : stream_(stream), recorder_(make_recorder()) {}

at::Tensor Graphs::run(const at::Tensor& input, const Work& work) {
  const std::vector<int64_t> key = input.sizes().vec();
  if (shapes_.size() == kMaxShapes && !shapes_.contains(key)) return work(input);
  Shape& shape = shapes_[key];
  if (shape.refused || shape.runs < kRunsToWarm) {
    at::Tensor output = work(input);
    shape.runs++;
    return output;
  }
  if (shape.graph == nullptr) {
    try {
      record(&shape, input, work);
    } catch (const std::exception&) {
      // A graph can't contain this work, which may wait for a value, or there isn't enough memory.
      shape = Shape();
      shape.refused = true;
      return work(input);
    }
  }
  shape.input.copy_(input, /*non_blocking=*/true);
  shape.graph->replay();
  // A copy: the next replay overwrites the graph's output while this one is still being read.
  return shape.output.clone();
}

void Graphs::record(Shape* shape, const at::Tensor& input, const Work& work) {
  shape->input = at::empty_like(input);
  stream_.synchronize();
  shape->graph = recorder_->record(stream_, [&] { shape->output = work(shape->input); });
}

}  // namespace thd
