// CUDA graphs. A library of its own, since LibTorch's interfaces for any device have none for CUDA: libtorchherd loads it
// when graphs are asked for, after LibTorch's CUDA part, and needs neither without.
//
// Not at::cuda::CUDAGraph: after a recording that failed, which is an ordinary thing here, some of LibTorch's versions
// leave the allocator in the state of recording, with a pointer to the graph that is gone.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <utility>

#include "graph.h"

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Until it is closed, what is allocated on the stream comes from a pool. The pool keeps all of it until this is gone.
class PoolScope {
 public:
  PoolScope(const c10::cuda::CUDAStream& stream, c10::MempoolId_t pool)
      : device_(stream.device_index()), pool_(std::move(pool)) {
    const cudaStream_t recorded = stream.stream();
    allocator::beginAllocateToPool(device_, pool_, [recorded](cudaStream_t used) { return used == recorded; });
  }

  ~PoolScope() {
    try {
      close();
      allocator::releasePool(device_, pool_);
    } catch (const c10::Error& error) {
      TORCH_WARN("a graph's memory can't be given back: ", error.what_without_backtrace());
    }
  }

  PoolScope(const PoolScope&) = delete;
  PoolScope& operator=(const PoolScope&) = delete;

  void close() {
    if (!open_) return;
    open_ = false;
    allocator::endAllocateToPool(device_, pool_);
  }

 private:
  c10::DeviceIndex device_;
  c10::MempoolId_t pool_;
  bool open_ = true;
};

// Ends a recording and gives what was recorded: null after something that can't be.
cudaGraph_t end_recording(cudaStream_t stream) {
  cudaGraph_t recorded = nullptr;
  C10_CUDA_CHECK(cudaStreamEndCapture(stream, &recorded));
  return recorded;
}

class CudaGraph : public thd::Graph {
 public:
  CudaGraph(const c10::cuda::CUDAStream& stream, c10::MempoolId_t pool, const std::function<void()>& work)
      : memory_(stream, pool), stream_(stream) {
    // ThreadLocal: other threads may allocate memory and wait for results meanwhile.
    C10_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    try {
      work();
    } catch (...) {
      abandon();
      throw;
    }
    const cudaGraph_t recorded = end_recording(stream_);
    memory_.close();
    // The flag is for an allocator that records its allocations too (PYTORCH_ALLOC_CONF=backend:cudaMallocAsync).
    const cudaError_t made =
        cudaGraphInstantiateWithFlags(&executable_, recorded, cudaGraphInstantiateFlagAutoFreeOnLaunch);
    C10_CUDA_CHECK_WARN(cudaGraphDestroy(recorded));
    C10_CUDA_CHECK(made);
  }

  ~CudaGraph() override { C10_CUDA_CHECK_WARN(cudaGraphExecDestroy(executable_)); }

  void replay() override { C10_CUDA_CHECK(cudaGraphLaunch(executable_, stream_)); }

 private:
  // The stream must leave its recording before anything else can run on it.
  void abandon() {
    try {
      C10_CUDA_CHECK_WARN(cudaGraphDestroy(end_recording(stream_)));
    } catch (const c10::Error&) {  // NOLINT(bugprone-empty-catch): what the work threw says more
    }
  }

  PoolScope memory_;
  c10::cuda::CUDAStream stream_;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaGraphRecorder : public thd::GraphRecorder {
 public:
  std::unique_ptr<thd::Graph> record(const c10::Stream& stream, const std::function<void()>& work) override {
    return std::make_unique<CudaGraph>(c10::cuda::CUDAStream(stream), pool_, work);
  }

 private:
  c10::MempoolId_t pool_ = at::cuda::graph_pool_handle();
};

}  // namespace

// owned by the caller.
extern "C" __attribute__((visibility("default"))) thd::GraphRecorder* thd_cuda_graph_recorder() {
  return new CudaGraphRecorder;
}
