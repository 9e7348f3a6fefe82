// The interface of libtorchherd_cuda, which contains the only code that needs CUDA's headers (cuda_graph.cc).
#ifndef TORCHHERD_SRC_GRAPH_H
#define TORCHHERD_SRC_GRAPH_H

#include <c10/core/Stream.h>

#include <functional>
#include <memory>

namespace thd {

// Recorded work of a stream.
class Graph {
 public:
  Graph() = default;
  virtual ~Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Queues the work on the stream where it was recorded.
  virtual void replay() = 0;
};

// Records graphs. Their intermediate tensors share memory, so two graphs of one recorder must not run at the same time.
class GraphRecorder {
 public:
  GraphRecorder() = default;
  virtual ~GraphRecorder() = default;
  GraphRecorder(const GraphRecorder&) = delete;
  GraphRecorder& operator=(const GraphRecorder&) = delete;

  // Records what work queues on the stream, without running it. The stream must be the current one, must not be the
  // device's default stream, and must not be used by another thread during the call. Tensors that work keeps belong to
  // the graph: each replay overwrites them. Throws what work throws, and c10::Error for work that can't be recorded,
  // such as waiting for a value; the stream is then unchanged.
  virtual std::unique_ptr<Graph> record(const c10::Stream& stream, const std::function<void()>& work) = 0;
};

}  // namespace thd

#endif
