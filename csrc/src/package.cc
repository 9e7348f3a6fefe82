// AOTInductor packages: a model compiled ahead of time into a shared object.
//
// LibTorch's AOTIModelPackageLoader isn't used: it always unpacks into /tmp, and leaves the files behind when the
// process is killed. The caller unpacks the package instead. This file makes the runner that the loader would make,
// which it looks up by the kind of device, since the runner for CUDA is in LibTorch's CUDA library.
#include <torch/csrc/inductor/aoti_runner/model_container_runner.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "output.h"
#include "program.h"
#include "translate.h"

namespace thd {
namespace {

using torch::inductor::AOTIModelContainerRunner;

// Held while a package loads and while it runs for the first time. Two packages at once have corrupted the heap
// (pytorch/pytorch#194128, #144459).
std::mutex& first_time() {
  static std::mutex mutex;
  return mutex;
}

class Package : public Program {
 public:
  Package(ProgramInfo info, std::unique_ptr<AOTIModelContainerRunner> runner, std::string output)
      : Program(std::move(info)), runner_(std::move(runner)), output_(std::move(output)) {}

  at::Tensor run(std::vector<c10::IValue> arguments) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      std::unique_lock<std::mutex> lock(first_time(), std::defer_lock);
      if (!has_run_) lock.lock();
      // The compiled code doesn't check strides.
      std::vector<at::Tensor> inputs;
      for (const c10::IValue& each : arguments) {
        if (!each.isTensor()) {
          throw Failure(THD_ERROR_FORWARD, "forward: a package takes tensors only, not a " + each.tagKind());
        }
        inputs.push_back(each.toTensor().contiguous());
      }
      std::vector<at::Tensor> outputs = runner_->run(inputs);
      has_run_ = true;
      // Their names aren't in the package, so a setting that is for other versions of the model chooses the only one too.
      if (outputs.size() == 1) return std::move(outputs.front());
      return chosen(c10::IValue(outputs), output_);
    });
  }

 private:
  std::unique_ptr<AOTIModelContainerRunner> runner_;
  std::string output_;
  bool has_run_ = false;
};

ProgramInfo describe(const AOTIModelContainerRunner& runner) {
  ProgramInfo info;
  info.inputs = "x: Tensor";
  std::vector<at::ScalarType> weights;
  for (const auto& [name, tensor] : runner.extract_constants_map(false)) {
    info.parameters += tensor.numel();
    info.bytes += static_cast<int64_t>(tensor.nbytes());
    if (at::isFloatingType(tensor.scalar_type())) weights.push_back(tensor.scalar_type());
  }
  // A package doesn't say which type it takes, but checks it. One that computes in bfloat16 may take float32.
  if (weights.empty()) weights = {at::kHalf, at::kBFloat16, at::kDouble};
  for (const at::ScalarType type : weights) {
    if (std::ranges::find(info.types, type) == info.types.end()) info.types.push_back(type);
  }
  return info;
}

// Reports whether the dynamic linker failed to find a symbol or library, which another version of LibTorch may have.
bool is_link_error(const std::string& error) {
  return error.find("undefined symbol") != std::string::npos ||
         error.find("cannot open shared object file") != std::string::npos;
}

}  // namespace

std::unique_ptr<Program> load_package(const std::string& library, const std::string& directory,
                                      c10::Device device, const std::string& output) {
  const std::string subject = library + ": ";
  return translate(THD_ERROR_NOT_A_MODULE, subject, [&] {
    const std::scoped_lock lock(first_time());
    // A package checks the shapes of its inputs only if this variable is set when it first runs. Without the check, a
    // wrong shape reads out of bounds.
    setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", 0);
    const std::string kind = c10::DeviceTypeName(device.type(), true);
    const auto& makers = torch::inductor::getAOTIModelRunnerRegistry();
    const auto maker = makers.find(kind);
    if (maker == makers.end()) {
      throw Failure(THD_ERROR_DEVICE, subject + "this LibTorch can't run packages on " + kind);
    }
    constexpr size_t kModels = 1;
    // Calls on one module never overlap, so the package needs no locks of its own.
    constexpr bool kRunSingleThreaded = true;
    try {
      auto runner = maker->second(library, kModels, device.str(), directory, kRunSingleThreaded);
      ProgramInfo info = describe(*runner);
      return std::make_unique<Package>(std::move(info), std::move(runner), output);
    } catch (const std::exception& e) {
      const std::string text = text_of(e);
      if (!is_link_error(text)) throw;
      throw Failure(THD_ERROR_NOT_A_MODULE, subject +
                                                "most likely compiled by another PyTorch version; export it "
                                                "again with PyTorch " TORCH_VERSION " (" +
                                                text + ")");
    }
  });
}

}  // namespace thd
