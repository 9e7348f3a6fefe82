// Batches' work as graphs: recorded once for each shape of batch, and replayed.
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

  // stream: where the work runs, one by one. Throws Failure(THD_ERROR_DEVICE) where graphs can't be made.
  explicit Graphs(const c10::Stream& stream);

  // Queues the work on input, which is the same work at each call, and returns its output. The stream must be current.
  // Throws what the work throws.
  at::Tensor run(const at::Tensor& input, const Work& work);

 private:
  // The members' order is that in which they may go, the last one first.
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
