// A program is what a model's file becomes: something that turns a batch into its answer on one device.
#ifndef TORCHHERD_SRC_PROGRAM_H
#define TORCHHERD_SRC_PROGRAM_H

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace torch::jit {
struct Module;
}

namespace thd {

// What a program says of itself.
struct Facts {
  std::string inputs;      // "name: type", one a line
  int64_t parameters = 0;  // elements in all parameters and buffers
  int64_t bytes = 0;       // their size
};

class Program {
 public:
  explicit Program(Facts facts) : facts_(std::move(facts)) {}
  virtual ~Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // input and the answer are on the program's device. Throws Failure with FORWARD, OUTPUT or OUT_OF_MEMORY.
  virtual at::Tensor run(const at::Tensor& input) = 0;

  const Facts& facts() const { return facts_; }

 private:
  Facts facts_;
};

// A TorchScript module. read: reads the file onto the device. subject: begins the messages of errors.
std::unique_ptr<Program> load_script(const std::string& subject, c10::Device device,
                                     const std::function<torch::jit::Module(c10::Device)>& read);

// An AOTInductor package that was unpacked into a folder; library: its shared object there.
std::unique_ptr<Program> load_package(const std::string& library, const std::string& folder,
                                      c10::Device device);

}  // namespace thd

#endif
