// A library of operators as users have them, for the tests.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace {

at::Tensor halve(const at::Tensor& x) { return x.mul(0.5); }

}  // namespace

TORCH_LIBRARY(torchherd_test, library) { library.def("halve(Tensor x) -> Tensor"); }

TORCH_LIBRARY_IMPL(torchherd_test, CPU, library) { library.impl("halve", halve); }
