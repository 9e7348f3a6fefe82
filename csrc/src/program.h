// A program is a loaded model file: it runs batches on one device.
#ifndef TORCHHERD_SRC_PROGRAM_H
#define TORCHHERD_SRC_PROGRAM_H

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace torch::jit {
struct Module;
}

namespace thd {

// How a parameter of forward takes a plain number.
enum class ArgumentType : uint8_t { kTensor, kReal, kInteger, kBool };

struct ProgramInfo {
  std::string inputs;      // "name: type", one per line
  int64_t parameters = 0;  // the number of elements in all parameters and buffers
  int64_t bytes = 0;       // their size in memory
  // The type of each parameter of forward. A parameter beyond the end is a tensor.
  std::vector<ArgumentType> arguments;
  // The floating point types that the images may need to have, the likeliest first; at least one.
  std::vector<at::ScalarType> types = {at::kFloat};
};

class Program {
 public:
  explicit Program(ProgramInfo info) : info_(std::move(info)) {}
  virtual ~Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Tensors among the arguments, and the output, are on the program's device. Throws Failure with FORWARD, OUTPUT or
  // OUT_OF_MEMORY.
  virtual at::Tensor run(std::vector<c10::IValue> arguments) = 0;

  // Chooses, among the forms that the program has, the fastest one that computes what the file says, and returns an output.
  // run runs a batch through the program; rounding is by what part of the largest value outputs may differ. Must be called
  // before the program serves; until then a program holds all its forms. Throws what run throws.
  virtual at::Tensor settle(const std::function<at::Tensor()>& run, double rounding) {
    (void)rounding;
    return run();
  }

  const ProgramInfo& info() const { return info_; }

 private:
  ProgramInfo info_;
};

// Loads a TorchScript module. subject: the prefix of error messages. output: which tensor of its output run returns
// (output.h). read: reads the file onto the device.
std::unique_ptr<Program> load_script(const std::string& subject, c10::Device device, const std::string& output,
                                     const std::function<torch::jit::Module(c10::Device)>& read);

// Loads an AOTInductor package that was unpacked into a directory. library: the path of its shared object.
// output: as above; the tensors of a package's output form one list.
std::unique_ptr<Program> load_package(const std::string& library, const std::string& directory,
                                      c10::Device device, const std::string& output);

}  // namespace thd

#endif
