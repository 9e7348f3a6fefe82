#include "graphs.h"

#include <ATen/ops/empty_like.h>
#include <dlfcn.h>

#include <exception>
#include <string>

#include "error.h"

namespace thd {
namespace {

// TorchScript watches the first run of a shape and compiles in the second; neither can be recorded.
constexpr int kRunsToWarm = 2;

// A graph keeps its input and output. When pictures can have any size, clients choose the shapes; those that come after
// so many run without a graph.
constexpr size_t kMostShapes = 64;

// The folder of this library, where the one with CUDA's graphs lies too.
std::string own_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return ".";
  const std::string path = info.dli_fname;
  return path.substr(0, path.find_last_of('/'));
}

std::unique_ptr<GraphRecorder> make_recorder() {
  const std::string path = own_folder() + "/libtorchherd_cuda.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // never unloaded
  void* symbol = library == nullptr ? nullptr : dlsym(library, "thd_cuda_graph_recorder");
  if (symbol == nullptr) {
    const char* reason = dlerror();
    throw Failure(THD_ERROR_DEVICE,
                  std::string("CUDA graphs can't be made: ") + (reason == nullptr ? path : reason) +
                      "; the build makes that library where LibTorch has its CUDA part and CUDA's "
                      "headers are found");
  }
  return std::unique_ptr<GraphRecorder>(reinterpret_cast<GraphRecorder* (*)()>(symbol)());
}

}  // namespace

Graphs::Graphs(const c10::Stream& stream) : stream_(stream), recorder_(make_recorder()) {}

at::Tensor Graphs::run(const at::Tensor& input, const Work& work) {
  const std::vector<int64_t> key = input.sizes().vec();
  if (shapes_.size() == kMostShapes && !shapes_.contains(key)) return work(input);
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
      // It does what no graph can hold, such as waiting for a value, or memory is short.
      shape = Shape();
      shape.refused = true;
      return work(input);
    }
  }
  shape.input.copy_(input, /*non_blocking=*/true);
  shape.graph->replay();
  // A tensor of its own: the next replay writes over the graph's while this one is still being read.
  return shape.output.clone();
}

void Graphs::record(Shape* shape, const at::Tensor& input, const Work& work) {
  shape->input = at::empty_like(input);
  stream_.synchronize();
  shape->graph = recorder_->record(stream_, [&] { shape->output = work(shape->input); });
}

}  // namespace thd
