// Measures the work of a request without a server: a floor for its time. `make bench` compares servers with it.
//
//   floors codec --threads N --seconds S --size WIDTHxHEIGHT PICTURE...
//   floors forward MODEL --batch B --threads N --seconds S --size WIDTHxHEIGHT --allocator system|kept
//   floors lone MODEL PICTURE --threads N --seconds S --size WIDTHxHEIGHT
//
// codec decodes and encodes images, forward runs the model by LibTorch, and lone decodes, runs and encodes one image at
// a time, as a server does for a single request.
//
// Each result is one line of JSON on stdout. The exit status is 1 after an error, with one line on stderr, and 2 after
// wrong usage.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/script.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "torchherd.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kQuality = 75;

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Returns a positive integer, or 0 if the text isn't one.
int parse_number(std::string_view text) {
  int parsed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole ? std::max(parsed, 0) : 0;
}

// The command line: flags, each with a value, and positional arguments.
struct Arguments {
  std::map<std::string, std::string> flags;
  std::vector<std::string> words;

  std::string text(const std::string& name, const std::string& otherwise) const {
    const auto found = flags.find(name);
    return found == flags.end() ? otherwise : found->second;
  }

  int number(const std::string& name, int otherwise) const {
    const std::string value = text(name, std::to_string(otherwise));
    const int parsed = parse_number(value);
    if (parsed == 0) {
      throw UsageError("--" + name + ": wanted a whole number of at least 1, got " + value);
    }
    return parsed;
  }
};

struct Size {
  int width;
  int height;
};

Arguments parse(int argc, char** argv) {
  const std::set<std::string> known{"threads", "seconds", "size", "batch", "allocator"};
  Arguments arguments;
  for (int i = 2; i < argc; i++) {
    const std::string word = argv[i];
    if (!word.starts_with("--")) {
      arguments.words.push_back(word);
    } else if (!known.contains(word.substr(2))) {
      throw UsageError("unknown flag " + word);
    } else if (++i < argc) {
      arguments.flags[word.substr(2)] = argv[i];
    } else {
      throw UsageError(word + " needs a value");
    }
  }
  return arguments;
}

Size parse_size(const std::string& text) {
  const std::string_view view = text;
  const size_t cross = std::min(view.find('x'), view.size() - 1);
  const Size size{.width = parse_number(view.substr(0, cross)), .height = parse_number(view.substr(cross + 1))};
  if (size.width == 0 || size.height == 0) {
    throw UsageError("--size: wanted WIDTHxHEIGHT, got " + text);
  }
  return size;
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (content.empty()) {
    throw std::runtime_error(path + ": cannot be read, or is empty");
  }
  return content;
}

void check(thd_error* error) {
  if (error != nullptr) {
    const std::string message = thd_error_message(error);
    thd_error_free(error);
    throw std::runtime_error(message);
  }
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The server's default options.
constexpr thd_jpeg_decode_options kDecode{.struct_size = sizeof(thd_jpeg_decode_options),
                                          .max_pixels = 0,
                                          .orientation = 1,
                                          .scaled = 0,
                                          .filter = THD_BILINEAR,
                                          .gray = 0};

// Decodes and encodes one image repeatedly until the time ends, and returns the number of repetitions.
int64_t convert_until(Clock::time_point end, const std::vector<uint8_t>& body, Size size) {
  constexpr int32_t kChannels = 3;
  std::vector<uint8_t> pixels(static_cast<size_t>(size.width) * size.height * kChannels);
  std::vector<uint8_t> out(thd_jpeg_bound(size.width, size.height, kChannels));
  int64_t converted = 0;
  for (; Clock::now() < end; converted++) {
    size_t written = 0;
    check(thd_jpeg_decode(body.data(), body.size(), &kDecode, size.width, size.height, pixels.data()));
    check(thd_jpeg_encode(pixels.data(), size.width, size.height, kChannels, kQuality, out.data(), out.size(),
                          &written));
  }
  return converted;
}

void codec(const Arguments& arguments) {
  const int threads = arguments.number("threads", static_cast<int>(std::thread::hardware_concurrency()));
  const int seconds = arguments.number("seconds", 5);
  const Size size = parse_size(arguments.text("size", "228x228"));
  if (arguments.words.empty()) {
    throw UsageError("codec needs a PICTURE");
  }
  for (const std::string& path : arguments.words) {
    const std::vector<uint8_t> body = read_file(path);
    // An image that can't be decoded fails here, since an exception in a thread would end the process.
    convert_until(Clock::now() + std::chrono::milliseconds(100), body, size);
    const auto start = Clock::now();
    std::atomic<int64_t> converted = 0;
    std::vector<std::jthread> running;
    running.reserve(threads);
    for (int i = 0; i < threads; i++) {
      running.emplace_back(
          [&] { converted += convert_until(start + std::chrono::seconds(seconds), body, size); });
    }
    running.clear();
    std::cout << R"({"floor":"codec","picture":")" << path << R"(","threads":)" << threads << R"(,"pictures":)"
              << converted << R"(,"pictures_per_second":)"
              << static_cast<double>(converted) / seconds_since(start) << "}" << '\n';
  }
}

// Makes glibc keep the memory that a forward frees. Otherwise it returns the memory to the kernel, and the next forward
// allocates it again page by page.
void keep_memory() {
#ifdef __GLIBC__
  constexpr int kKept = 1 << 30;
  if (mallopt(M_MMAP_THRESHOLD, kKept) == 0 || mallopt(M_TRIM_THRESHOLD, kKept) == 0) {
    throw std::runtime_error("--allocator kept: this glibc doesn't support a threshold of 1 GiB");
  }
#else
  throw std::runtime_error("--allocator kept: this C library has no mallopt");
#endif
}

void forward(const Arguments& arguments) {
  const int batch = arguments.number("batch", 4);
  const int threads = arguments.number("threads", static_cast<int>(std::thread::hardware_concurrency()));
  const int seconds = arguments.number("seconds", 5);
  const Size size = parse_size(arguments.text("size", "228x228"));
  const std::string allocator = arguments.text("allocator", "system");
  if (arguments.words.size() != 1) {
    throw UsageError("forward needs one MODEL");
  }
  if (allocator == "kept") {
    keep_memory();
  } else if (allocator != "system") {
    throw UsageError("--allocator: wanted system or kept, got " + allocator);
  }
  at::set_num_threads(threads);
  const c10::InferenceMode inference;
  torch::jit::Module module = torch::jit::load(arguments.words[0]);
  module.eval();
  const std::vector<torch::jit::IValue> input{torch::rand({batch, 3, size.height, size.width})};
  // LibTorch optimizes the graph during the first runs.
  constexpr int kWarmUps = 3;
  for (int i = 0; i < kWarmUps; i++) {
    module.forward(input);
  }
  int64_t forwards = 0;
  const auto start = Clock::now();
  for (; seconds_since(start) < seconds; forwards++) {
    module.forward(input);
  }
  std::cout << R"({"floor":"forward","allocator":")" << allocator << R"(","batch":)" << batch
            << R"(,"threads":)" << threads << R"(,"pictures":)" << forwards * batch
            << R"(,"pictures_per_second":)" << static_cast<double>(forwards * batch) / seconds_since(start)
            << "}" << '\n';
}

// Decodes an image, runs the model and encodes the output. pixels and out are reused memory.
void translate(thd_module* module, const std::vector<uint8_t>& body, Size size, std::vector<uint8_t>* pixels,
               std::vector<uint8_t>* out) {
  check(thd_jpeg_decode(body.data(), body.size(), &kDecode, size.width, size.height, pixels->data()));
  const uint8_t* in = pixels->data();
  thd_result* result = nullptr;
  thd_tensor_view view{};
  view.struct_size = sizeof view;
  check(thd_module_forward_images(module, &in, 1, size.height, size.width, &result, &view));
  uint8_t* output = pixels->data();
  thd_error* failed = thd_result_read_images(result, &output, 1);
  thd_result_free(result);
  check(failed);
  size_t written = 0;
  check(thd_jpeg_encode(pixels->data(), size.width, size.height, 3, kQuality, out->data(), out->size(),
                        &written));
}

void lone(const Arguments& arguments) {
  const int threads = arguments.number("threads", 1);
  const int seconds = arguments.number("seconds", 5);
  const Size size = parse_size(arguments.text("size", "228x228"));
  if (arguments.words.size() != 2) {
    throw UsageError("lone needs a MODEL, which must keep the size, and a PICTURE");
  }
  check(thd_set_num_threads(threads));
  const thd_load_options options{.struct_size = sizeof(thd_load_options),
                                 .device = "cpu",
                                 .values = nullptr,
                                 .precision = THD_FP32,
                                 .graphs = 0};
  thd_module* module = nullptr;
  const std::vector<uint8_t> content = read_file(arguments.words[0]);
  check(thd_module_load_memory(content.data(), content.size(), &options, &module));
  const std::vector<uint8_t> body = read_file(arguments.words[1]);
  std::vector<uint8_t> pixels(static_cast<size_t>(size.width) * size.height * 3);
  std::vector<uint8_t> out(thd_jpeg_bound(size.width, size.height, 3));
  const auto warm_up = Clock::now();
  do {
    translate(module, body, size, &pixels, &out);
  } while (seconds_since(warm_up) < 1);
  std::vector<double> durations;
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) {
    const auto begin = Clock::now();
    translate(module, body, size, &pixels, &out);
    durations.push_back(seconds_since(begin));
  }
  thd_module_free(module);
  const auto middle = durations.begin() + static_cast<std::ptrdiff_t>(durations.size() / 2);
  std::nth_element(durations.begin(), middle, durations.end());
  std::cout << R"({"floor":"lone","threads":)" << threads << R"(,"pictures":)" << durations.size()
            << R"(,"pictures_per_second":)" << static_cast<double>(durations.size()) / seconds_since(start)
            << R"(,"p50_ms":)" << *middle * 1000 << "}" << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string command = argc > 1 ? argv[1] : "";
    const Arguments arguments = parse(argc, argv);
    if (command == "codec") {
      codec(arguments);
    } else if (command == "forward") {
      forward(arguments);
    } else if (command == "lone") {
      lone(arguments);
    } else {
      throw UsageError("wanted codec, forward or lone, got \"" + command + "\"");
    }
    return 0;
  } catch (const UsageError& error) {
    std::cerr << "floors: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    const std::string message = error.what();
    std::cerr << "floors: " << message.substr(0, message.find('\n')) << "\n";
    return 1;
  }
}
