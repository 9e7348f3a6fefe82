// TorchScript modules.
#include <torch/csrc/jit/api/module.h>

#include <sstream>
#include <vector>

#include "program.h"
#include "translate.h"

namespace thd {
namespace {

class Script : public Program {
 public:
  Script(Facts facts, torch::jit::Module module) : Program(std::move(facts)), module_(std::move(module)) {}

  at::Tensor run(const at::Tensor& input) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const c10::IValue output = module_.forward({input});
      if (!output.isTensor()) {
        throw Failure(THD_ERROR_OUTPUT,
                      "the module answered with a " + output.tagKind() + ", not with a tensor");
      }
      return output.toTensor();
    });
  }

 private:
  torch::jit::Module module_;
};

// TorchScript and plain checkpoints are both zip files; only the former carries code. A person who gives the
// latter deserves to hear so.
bool looks_like_checkpoint(const std::string& error) {
  return error.find("constants.pkl") != std::string::npos || error.find("data.pkl") != std::string::npos;
}

Facts describe(const torch::jit::Module& module) {
  std::ostringstream inputs;
  const auto& arguments = module.get_method("forward").function().getSchema().arguments();
  for (size_t i = 1; i < arguments.size(); i++) {  // the first one is self
    if (i > 1) inputs << '\n';
    inputs << arguments[i].name() << ": " << arguments[i].type()->str();
  }
  Facts facts{.inputs = inputs.str()};
  const auto count = [&](const at::Tensor& tensor) {
    facts.parameters += tensor.numel();
    facts.bytes += static_cast<int64_t>(tensor.nbytes());
  };
  for (const auto& tensor : module.parameters()) count(tensor);
  for (const auto& tensor : module.buffers()) count(tensor);
  return facts;
}

// Weights become constants, and what depends on them alone is computed once (the widening of float16 weights, say).
// A module that can't be frozen, since it changes its own attributes for instance, runs as it is.
torch::jit::Module frozen(const torch::jit::Module& module) {
  try {
    return torch::jit::freeze(module);
  } catch (const c10::Error&) {
    return module;
  }
}

}  // namespace

std::unique_ptr<Program> load_script(const std::string& subject, c10::Device device,
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
    return std::make_unique<Script>(describe(module), frozen(module));
  });
}

}  // namespace thd
