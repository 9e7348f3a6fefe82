// TorchScript modules.
#include <ATen/Context.h>
#include <ATen/ops/abs.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <sstream>
#include <unordered_set>
#include <utility>
#include <vector>

#include "inputs.h"
#include "output.h"
#include "program.h"
#include "translate.h"

namespace thd {
namespace {

// Makes the weights constants, so that what depends only on them is computed once (converting float16 weights, for
// example). numerics: also fold operators into each other, which rounds otherwise. Returns nothing for a module that can't
// be frozen, such as one that changes its own attributes.
std::optional<torch::jit::Module> frozen(const torch::jit::Module& module, bool numerics) {
  try {
    return torch::jit::freeze(module, std::nullopt, numerics);
  } catch (const c10::Error&) {
    return std::nullopt;
  }
}

// During its lifetime, random numbers on a device are those that will be drawn after it.
class RepeatedRandom {
 public:
  explicit RepeatedRandom(c10::Device device) : generator_(at::globalContext().defaultGenerator(device)) {
    const std::scoped_lock lock(generator_.mutex());
    state_ = generator_.get_state();
  }
  ~RepeatedRandom() {
    const std::scoped_lock lock(generator_.mutex());
    generator_.set_state(state_);
  }
  RepeatedRandom(const RepeatedRandom&) = delete;
  RepeatedRandom& operator=(const RepeatedRandom&) = delete;

 private:
  at::Generator generator_;
  at::Tensor state_;
};

// Reports whether all but a thousandth of the values are equal but for rounding, which is relative to the largest value. A
// threshold or an argmax turns rounding into a large difference where two values are close.
bool nearly_equal(const at::Tensor& a, const at::Tensor& b, double rounding) {
  if (a.sizes() != b.sizes()) return false;
  if (a.numel() == 0) return true;
  const at::Tensor expected = b.to(at::kDouble);
  const at::Tensor difference = a.to(at::kDouble).sub(expected).abs_();
  const auto bound = rounding * expected.abs().max().item<double>();
  const auto outliers = difference.gt(bound).sum().item<double>();  // NaN isn't greater
  return outliers * 1000 <= static_cast<double>(a.numel());
}

// A module, and until it settles, its frozen form too.
class Script : public Program {
 public:
  // fast: the module, frozen; nothing if it can't be.
  Script(ProgramInfo info, torch::jit::Module module, std::optional<torch::jit::Module> fast,
         c10::Device device, std::string output)
      : Program(std::move(info)), device_(device), output_(std::move(output)), module_(std::move(module)) {
    if (fast) {
      original_ = module_;
      module_ = *std::move(fast);
    }
  }

  // Freezing folds a batch norm into the convolution before it by the running statistics, also if the batch norm was traced
  // in training mode and computes the statistics of its input. So a frozen module serves only if its output is that of the
  // original.
  at::Tensor settle(const std::function<at::Tensor()>& run, double rounding) override {
    if (!original_.has_value()) return run();
    at::Tensor output = run();
    const torch::jit::Module original = original_.value();
    original_.reset();
    const torch::jit::Module fast = std::exchange(module_, original);
    at::Tensor expected = run();
    if (nearly_equal(output, expected, rounding)) {
      module_ = fast;
      return output;
    }
    // A module that draws random numbers differs anyway, unless it draws the same ones.
    const auto run_repeatably = [&](const torch::jit::Module& form) {
      module_ = form;
      const RepeatedRandom repeated(device_);
      return run();
    };
    expected = run_repeatably(original);
    if (nearly_equal(run_repeatably(fast), expected, rounding)) return expected;
    const auto exact = frozen(original, false);
    if (exact.has_value() && nearly_equal(run_repeatably(*exact), expected, rounding)) return expected;
    module_ = original;
    return expected;
  }

  at::Tensor run(std::vector<c10::IValue> arguments) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const c10::IValue output = module_.forward(std::move(arguments));
      return chosen(output, output_);
    });
  }

 private:
  c10::Device device_;
  std::string output_;
  torch::jit::Module module_;                   // that runs
  std::optional<torch::jit::Module> original_;  // if module_ is frozen and hasn't been compared with it
};

// Reports whether a load failed because the file is a checkpoint: a zip file as TorchScript is, but without code.
bool looks_like_checkpoint(const std::string& error) {
  return error.find("constants.pkl") != std::string::npos || error.find("data.pkl") != std::string::npos;
}

ProgramInfo describe(const torch::jit::Module& module) {
  std::ostringstream inputs;
  const auto& arguments = module.get_method("forward").function().getSchema().arguments();
  for (size_t i = 1; i < arguments.size(); i++) {  // the first is self
    if (i > 1) inputs << '\n';
    inputs << arguments[i].name() << ": " << arguments[i].type()->str();
  }
  ProgramInfo info{.inputs = inputs.str(), .arguments = argument_types(arguments)};
  const auto count = [&](const at::Tensor& tensor) {
    info.parameters += tensor.numel();
    info.bytes += static_cast<int64_t>(tensor.nbytes());
  };
  for (const auto& tensor : module.parameters()) count(tensor);
  for (const auto& tensor : module.buffers()) count(tensor);
  return info;
}

// Adds the bytes of the tensors that are constants in a block, each memory once.
void add_constants(const torch::jit::Block& block, std::unordered_set<const void*>& seen, int64_t& bytes) {
  for (const torch::jit::Node* node : block.nodes()) {
    for (const torch::jit::Block* inner : node->blocks()) add_constants(*inner, seen, bytes);
    if (node->kind() != c10::prim::Constant) continue;
    const auto value = torch::jit::toIValue(node->output());
    if (!value.has_value() || !value->isTensor()) continue;
    const at::Tensor& tensor = value->toTensor();
    if (tensor.defined() && seen.insert(tensor.unsafeGetTensorImpl()).second)
      bytes += static_cast<int64_t>(tensor.nbytes());
  }
}

// Returns the size of a frozen module's weights, which are constants of its code. They can be larger than the file's: a module
// with float16 weights that computes in float32 has been given its weights in float32.
int64_t frozen_bytes(const torch::jit::Module& module) {
  int64_t bytes = 0;
  std::unordered_set<const void*> seen;
  add_constants(*module.get_method("forward").graph()->block(), seen, bytes);
  return bytes;
}

}  // namespace

std::unique_ptr<Program> load_script(const std::string& subject, c10::Device device, const std::string& output,
                                     const std::function<torch::jit::Module(c10::Device)>& read) {
  return translate(THD_ERROR_NOT_A_MODULE, subject, [&] {
    torch::jit::Module module;
    try {
      module = read(device);
    } catch (const c10::Error& e) {
      if (!looks_like_checkpoint(e.what_without_backtrace())) throw;
      throw Failure(THD_ERROR_NOT_A_MODULE, subject +
                                                "a PyTorch checkpoint without code, not a TorchScript module; "
                                                "export it with torch.jit.trace or torch.jit.script");
    }
    if (!module.find_method("forward").has_value()) {
      throw Failure(THD_ERROR_NOT_A_MODULE, subject + "the module has no forward method");
    }
    module.eval();
    ProgramInfo info = describe(module);
    std::optional<torch::jit::Module> fast = frozen(module, true);
    info.types = input_types(fast ? *fast : module);
    if (fast) info.bytes = std::max(info.bytes, frozen_bytes(*fast));
    return std::make_unique<Script>(std::move(info), std::move(module), std::move(fast), device, output);
  });
}

}  // namespace thd
