// Records the work of a batch as a graph, once per shape, and replays it.
#ifndef TORCHHERD_SRC_GRAPHS_H
#define TORCHHERD_SRC_GRAPHS_H

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "graph.h"

namespace thd {

class Graphs {
 public:
  using Work = std::function<at::Tensor(const at::Tensor&)>;

  // stream: where all work runs. Throws Failure(THD_ERROR_DEVICE) if graphs aren't available.
  explicit Graphs(const c10::Stream& stream);

  // Queues work(input) and returns its output. work must be the same in every call, and the stream must be the current
  // one. Throws what work throws.
  at::Tensor run(const at::Tensor& input, const Work& work);

 private:
  // The order matters: members are destroyed from the last to the first, and the tensors must go before the graph.
  struct Shape {
    int runs = 0;
    bool refused = false;
    std::unique_ptr<Graph> graph;
    at::Tensor input;
    at::Tensor output;
  };

  void record(Shape* shape, const at::Tensor& input, const Work& work);

  c10::Stream stream_;
  std::unique_ptr<GraphRecorder> recorder_;
  std::map<std::vector<int64_t>, Shape> shapes_;
};

}  // namespace thd

#endif
