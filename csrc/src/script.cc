// TorchScript modules.
#include <torch/csrc/jit/api/module.h>

#include <sstream>
#include <utility>
#include <vector>

#include "inputs.h"
#include "program.h"
#include "translate.h"

namespace thd {
namespace {

class Script : public Program {
 public:
  Script(ProgramInfo info, torch::jit::Module module) : Program(std::move(info)), module_(std::move(module)) {}

  at::Tensor run(std::vector<c10::IValue> arguments) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      const c10::IValue output = module_.forward(std::move(arguments));
      if (!output.isTensor()) {
        throw Failure(THD_ERROR_OUTPUT, "the module returned a " + output.tagKind() + " instead of a tensor");
      }
      return output.toTensor();
    });
  }

 private:
  torch::jit::Module module_;
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

// Makes the weights constants, so that what depends only on them is computed once (converting float16 weights, for
// example). A module that can't be frozen, such as one that changes its own attributes, stays as it is.
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
    ProgramInfo info = describe(module);
    torch::jit::Module runs = frozen(module);
    info.types = input_types(runs);
    return std::make_unique<Script>(std::move(info), std::move(runs));
  });
}

}  // namespace thd
