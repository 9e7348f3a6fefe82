// CUDA graphs, in a library of their own (libtorchherd_cuda): LibTorch's device-independent interfaces don't cover
// graphs. libtorchherd loads this library after LibTorch's CUDA library, and only if graphs are requested.
//
// at::cuda::CUDAGraph isn't used: after a failed recording, which is normal here, some versions of LibTorch leave the
// allocator in the recording state, with a pointer to the destroyed graph.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <utility>

#include "graph.h"

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Allocates the memory of a stream from a pool until it is closed. The pool keeps that memory until the PoolScope is
// destroyed.
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
      TORCH_WARN("a graph's memory can't be released: ", error.what_without_backtrace());
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

// Ends a recording and returns the recorded graph, or null if the work can't be recorded.
cudaGraph_t end_recording(cudaStream_t stream) {
  cudaGraph_t recorded = nullptr;
  C10_CUDA_CHECK(cudaStreamEndCapture(stream, &recorded));
  return recorded;
}

class CudaGraph : public thd::Graph {
 public:
  CudaGraph(const c10::cuda::CUDAStream& stream, c10::MempoolId_t pool, const std::function<void()>& work)
      : memory_(stream, pool), stream_(stream) {
    // ThreadLocal: other threads may allocate memory and wait for results during the recording.
    C10_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    try {
      work();
    } catch (...) {
      abandon();
      throw;
    }
    const cudaGraph_t recorded = end_recording(stream_);
    memory_.close();
    // The flag is for an allocator whose allocations are recorded too (PYTORCH_ALLOC_CONF=backend:cudaMallocAsync).
    const cudaError_t made =
        cudaGraphInstantiateWithFlags(&executable_, recorded, cudaGraphInstantiateFlagAutoFreeOnLaunch);
    C10_CUDA_CHECK_WARN(cudaGraphDestroy(recorded));
    C10_CUDA_CHECK(made);
  }

  ~CudaGraph() override { C10_CUDA_CHECK_WARN(cudaGraphExecDestroy(executable_)); }

  void replay() override { C10_CUDA_CHECK(cudaGraphLaunch(executable_, stream_)); }

 private:
  // The stream must end its recording before it can run anything else.
  void abandon() {
    try {
      C10_CUDA_CHECK_WARN(cudaGraphDestroy(end_recording(stream_)));
    } catch (const c10::Error&) {  // NOLINT(bugprone-empty-catch): the work's own exception is more specific
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

// Returns a recorder that the caller owns.
extern "C" __attribute__((visibility("default"))) thd::GraphRecorder* thd_cuda_graph_recorder() {
  return new CudaGraphRecorder;
}
