// A library of operators that was built for another LibTorch, for the tests: its operator calls a function that this one
// lacks.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace at {
Tensor function_of_another_version(const Tensor& x);
}  // namespace at

TORCH_LIBRARY(torchherd_unresolved, library) {
  library.def("call(Tensor x) -> Tensor", at::function_of_another_version);
}
