// AOTInductor packages: a model compiled ahead of time into a shared object.
//
// LibTorch's own AOTIModelPackageLoader isn't used: it always unpacks into /tmp, and leaves what it unpacked behind when
// the process is killed. Unpacking is the caller's; what is left is the runner that the loader would make too, looked up
// by the device's kind, so that CUDA's comes with LibTorch's CUDA library.
#include <torch/csrc/inductor/aoti_runner/model_container_runner.h>
#include <torch/version.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "program.h"
#include "translate.h"

namespace thd {
namespace {

using torch::inductor::AOTIModelContainerRunner;

// Held while a package is made and while one runs for the first time: two at once have corrupted the heap
// (pytorch/pytorch#194128, #144459).
std::mutex& first_time() {
  static std::mutex mutex;
  return mutex;
}

class Package : public Program {
 public:
  Package(Facts facts, std::unique_ptr<AOTIModelContainerRunner> runner)
      : Program(std::move(facts)), runner_(std::move(runner)) {}

  at::Tensor run(const at::Tensor& input) override {
    return translate(THD_ERROR_FORWARD, "forward: ", [&] {
      std::unique_lock<std::mutex> lock(first_time(), std::defer_lock);
      if (!has_run_) lock.lock();
      // Compiled code takes the strides for granted.
      std::vector<at::Tensor> outputs = runner_->run({input.contiguous()});
      has_run_ = true;
      if (outputs.size() != 1) {
        throw Failure(THD_ERROR_OUTPUT, "the package answered with " + std::to_string(outputs.size()) +
                                            " tensors instead of one");
      }
      return std::move(outputs.front());
    });
  }

 private:
  std::unique_ptr<AOTIModelContainerRunner> runner_;
  bool has_run_ = false;
};

Facts describe(const AOTIModelContainerRunner& runner) {
  Facts facts{.inputs = "x: Tensor"};
  for (const auto& [name, tensor] : runner.extract_constants_map(false)) {
    facts.parameters += tensor.numel();
    facts.bytes += static_cast<int64_t>(tensor.nbytes());
  }
  return facts;
}

// Whether the dynamic linker missed something that another LibTorch has.
bool misses_something(const std::string& error) {
  return error.find("undefined symbol") != std::string::npos ||
         error.find("cannot open shared object file") != std::string::npos;
}

}  // namespace

std::unique_ptr<Program> load_package(const std::string& library, const std::string& folder,
                                      c10::Device device) {
  const std::string subject = library + ": ";
  return translate(THD_ERROR_NOT_A_MODULE, subject, [&] {
    const std::scoped_lock lock(first_time());
    // A package compares its inputs' shapes with those it was compiled for only when it is asked to; without, a wrong
    // one reads beyond memory. Asked is by this variable, which the package reads at its first run.
    setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", 0);
    const std::string kind = c10::DeviceTypeName(device.type(), true);
    const auto& makers = torch::inductor::getAOTIModelRunnerRegistry();
    const auto maker = makers.find(kind);
    if (maker == makers.end()) {
      throw Failure(THD_ERROR_DEVICE, subject + "this LibTorch can't run packages on " + kind);
    }
    constexpr size_t kModels = 1;
    // Calls on one module take turns, so the package needs no locks of its own.
    constexpr bool kRunSingleThreaded = true;
    try {
      auto runner = maker->second(library, kModels, device.str(), folder, kRunSingleThreaded);
      Facts facts = describe(*runner);
      return std::make_unique<Package>(std::move(facts), std::move(runner));
    } catch (const std::exception& e) {
      const std::string text = text_of(e);
      if (!misses_something(text)) throw;
      throw Failure(THD_ERROR_NOT_A_MODULE, subject +
                                                "most likely compiled by another PyTorch than " TORCH_VERSION
                                                "; export it anew with that version (" +
                                                text + ")");
    }
  });
}

}  // namespace thd
