// What libtorchherd asks of the library that holds its only code for CUDA alone (cuda_graph.cc).
#ifndef TORCHHERD_SRC_GRAPH_H
#define TORCHHERD_SRC_GRAPH_H

#include <c10/core/Stream.h>

#include <functional>
#include <memory>

namespace thd {

// Work that was recorded on a stream.
class Graph {
 public:
  Graph() = default;
  virtual ~Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Queues the work on the stream that it was recorded on.
  virtual void replay() = 0;
};

// Makes graphs whose intermediate tensors share memory; so no two of them may run at the same time.
class GraphRecorder {
 public:
  GraphRecorder() = default;
  virtual ~GraphRecorder() = default;
  GraphRecorder(const GraphRecorder&) = delete;
  GraphRecorder& operator=(const GraphRecorder&) = delete;

  // Records what work queues on the stream, without running it. The stream must be current, not the device's default
  // one, and used by no other thread meanwhile. Tensors that work leaves behind belong to the graph: each replay writes
  // them anew. Throws what work throws, and c10::Error for work that can't be recorded, such as waiting for a value; the
  // stream is as before then.
  virtual std::unique_ptr<Graph> record(const c10::Stream& stream, const std::function<void()>& work) = 0;
};

}  // namespace thd

#endif
