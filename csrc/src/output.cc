#include "output.h"

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/jit_type.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <array>
#include <limits>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "error.h"
#include "values.h"

namespace thd {
namespace {

constexpr int64_t kColor = 3;
constexpr int64_t kColorAndAlpha = 4;
constexpr int64_t kMaxClasses = 256;  // of a byte

std::string describe(const at::Tensor& tensor) {
  std::ostringstream text;
  text << c10::getDtypeNames(tensor.scalar_type()).first << ' ' << tensor.sizes();
  return text.str();
}

using Entry = std::pair<std::string, c10::IValue>;

std::string key_text(const c10::IValue& key) {
  if (key.isString()) return key.toStringRef();
  std::ostringstream text;
  text << key;
  return text.str();
}

bool is_container(const c10::IValue& value) {
  return value.isTuple() || value.isList() || value.isGenericDict();
}

// Returns the values of a container by the names that a path has for them.
std::vector<Entry> entries_of(const c10::IValue& container) {
  std::vector<Entry> entries;
  if (container.isGenericDict()) {
    for (const auto& each : container.toGenericDict()) entries.emplace_back(key_text(each.key()), each.value());
    return entries;
  }
  const std::vector<c10::IValue> values =
      container.isTuple() ? container.toTupleRef().elements().vec() : container.toListRef().vec();
  for (size_t i = 0; i < values.size(); i++) entries.emplace_back(std::to_string(i), values[i]);
  return entries;
}

std::string_view kind_of(const c10::IValue& container) {
  if (container.isGenericDict()) return "dict";
  return container.isTuple() ? "tuple" : "list";
}

// Writes "PATH: dtype [shape]" for each tensor within a value.
void list_values(const c10::IValue& value, const std::string& path, std::vector<std::string>* lines) {
  if (value.isTensor()) {
    lines->push_back(path + ": " + describe(value.toTensor()));
  } else if (is_container(value)) {
    for (const auto& [name, each] : entries_of(value)) {
      std::string below = path;
      if (!below.empty()) below += '/';
      list_values(each, below + name, lines);
    }
  } else {
    lines->push_back(path + ": " + value.tagKind() + ", which isn't a tensor");
  }
}

[[noreturn]] void refuse(const c10::IValue& output, const std::string& problem) {
  std::vector<std::string> lines;
  list_values(output, "", &lines);
  constexpr size_t kMostLines = 20;
  std::string text = problem;
  for (size_t i = 0; i < std::min(lines.size(), kMostLines); i++) text += (i == 0 ? ": " : "; ") + lines[i];
  if (lines.size() > kMostLines) text += "; and " + std::to_string(lines.size() - kMostLines) + " more";
  std::string example = "KEY";
  if (!lines.empty()) example = lines.front().substr(0, lines.front().rfind(": "));
  throw Failure(THD_ERROR_OUTPUT, text + "; choose one in model.yaml, such as output: " + example);
}

// Returns the next step of a path and removes it.
std::string take_step(std::string_view* path) {
  const size_t end = std::min(path->find('/'), path->size());
  std::string step(path->substr(0, end));
  path->remove_prefix(std::min(end + 1, path->size()));
  return step;
}

}  // namespace

at::Tensor chosen(const c10::IValue& output, const std::string& path) {
  if (output.isTensor() && path.empty()) return output.toTensor();
  c10::IValue value = output;
  std::string_view rest = path;
  while (!value.isTensor()) {
    if (!is_container(value)) {
      throw Failure(THD_ERROR_OUTPUT,
                    "the module returned a value of type " + value.tagKind() + " instead of a tensor");
    }
    const std::vector<Entry> entries = entries_of(value);
    if (rest.empty()) {
      if (entries.size() != 1) {
        refuse(output, "the module returned a " + std::string(kind_of(value)) + " of " +
                           std::to_string(entries.size()) + " values instead of a tensor");
      }
      value = entries.front().second;
      continue;
    }
    // A key may have slashes itself.
    const auto whole = std::ranges::find_if(entries, [&](const Entry& each) { return each.first == rest; });
    const std::string step = whole == entries.end() ? take_step(&rest) : std::string(std::exchange(rest, {}));
    const auto found = std::ranges::find_if(entries, [&](const Entry& each) { return each.first == step; });
    if (found == entries.end()) {
      refuse(output, "the module's output has no " + path + ", which the setting output asks for");
    }
    const c10::IValue next = found->second;
    value = next;
  }
  if (!rest.empty()) {
    refuse(output, "the module's output has no " + path + ", which the setting output asks for");
  }
  return value.toTensor();
}

Output::Output(const thd_values& values, c10::Device device)
    : kind_(values.kind),
      activation_(values.activation),
      layout_(values.layout),
      rounding_(values.rounding),
      bgr_(values.channels == THD_BGR),
      low_(values.output_low) {
  const std::array<float, kColorAndAlpha> mean = {values.output_mean[0], values.output_mean[1],
                                                  values.output_mean[2], 0};
  const std::array<float, kColorAndAlpha> std = {values.output_std[0], values.output_std[1],
                                                 values.output_std[2], 1};
  const auto all = [](const auto& numbers, float number) {
    return std::all_of(numbers.begin(), numbers.end(), [&](float each) { return each == number; });
  };
  if (!all(mean, 0)) mean_ = per_channel(mean.data(), kColorAndAlpha, device);
  if (!all(std, 1)) std_ = per_channel(std.data(), kColorAndAlpha, device);
  if (values.output_low != 0 || values.output_high != 1) {
    span_ = at::full({}, values.output_high - values.output_low, at::TensorOptions(at::kFloat).device(device));
  }
}

bool Output::allows(int64_t channels) const {
  switch (kind_) {
    case THD_IMAGE:
      return channels == 1 || channels == kColor || channels == kColorAndAlpha;
    case THD_MASK:
      return channels == 1 || activation_ == THD_SOFTMAX;
    case THD_CLASSES:
      return channels >= 1 && channels <= kMaxClasses;
    case THD_DEPTH:
      return channels == 1;
    case THD_CHROMA:
      return channels == 2;
  }
  return false;
}

std::string Output::wanted(int64_t count) const {
  const auto channels = [&]() -> std::string {
    switch (kind_) {
      case THD_IMAGE:
        return "1, 3 or 4";
      case THD_MASK:
        return activation_ == THD_SOFTMAX ? "channels" : "1";
      case THD_CLASSES:
        return "1 to " + std::to_string(kMaxClasses);
      case THD_DEPTH:
        return "1";
      case THD_CHROMA:
        return "2";
    }
    return "channels";
  };
  const std::string batch = std::to_string(count);
  return "a batch of " + batch + " images needs [" + batch + ", " + channels() + ", height, width]";
}

// Returns what to set in model.yaml for an image of another number of channels.
std::string Output::hint(const at::Tensor& output) const {
  if (kind_ != THD_IMAGE || output.dim() != 4) return "";
  if (output.size(1) == 2) {
    return "; if these are a and b of Lab, set output-kind: chroma; if they are the scores of two classes, "
           "output-kind: classes";
  }
  if (output.size(1) <= kMaxClasses) {
    return "; if these are the scores of " + std::to_string(output.size(1)) +
           " classes, set output-kind: classes";
  }
  return "";
}

at::Tensor Output::arrange(const at::Tensor& output, int64_t count) const {
  at::Tensor t = output;
  bool has_channels = true;
  if (t.dim() == 2 && count == 1) {
    t = t.unsqueeze(0).unsqueeze(0);
    has_channels = false;
  } else if (t.dim() == 3 && t.size(0) == count) {
    t = t.unsqueeze(1);
    has_channels = false;
  } else if (t.dim() == 3 && count == 1) {
    t = t.unsqueeze(0);
  }
  const bool usable = t.dim() == 4 && t.size(0) == count && t.numel() > 0 && t.layout() == at::kStrided &&
                      (at::isFloatingType(t.scalar_type()) || at::isIntegralType(t.scalar_type(), true));
  if (usable && has_channels) {
    const bool last = layout_ == THD_NHWC ||
                      (layout_ == THD_LAYOUT_AUTO && !allows(t.size(1)) && allows(t.size(3)) &&
                       // Scores may have any number of channels, so only their first dimension is taken for it.
                       kind_ != THD_CLASSES && activation_ != THD_SOFTMAX);
    if (last) t = t.permute({0, 3, 1, 2});
  }
  if (!usable || !allows(t.size(1))) {
    throw Failure(THD_ERROR_OUTPUT,
                  "the module returned " + describe(output) + "; " + wanted(count) + hint(output));
  }
  return t.scalar_type() == at::kBool ? t.to(at::kByte).to(at::kFloat) : t;
}

bool Output::is_bytes(const at::Tensor& arranged) const {
  return arranged.scalar_type() == at::kByte && activation_ == THD_NO_ACTIVATION;
}

bool Output::fits_planes(const at::Tensor& arranged) const {
  return (kind_ == THD_IMAGE && arranged.size(1) <= kColor && !is_bytes(arranged)) ||
         (kind_ == THD_MASK && !is_bytes(arranged));
}

at::Tensor Output::activated(const at::Tensor& arranged) const {
  at::Tensor values = arranged.to(at::kFloat);
  if (activation_ == THD_SIGMOID) values = at::sigmoid(values);
  if (activation_ == THD_SOFTMAX) values = at::softmax(values, 1);
  if (kind_ == THD_MASK && values.size(1) > 1) values = values.narrow(1, values.size(1) - 1, 1);
  return values;
}

at::Tensor Output::normalized(const at::Tensor& values) const {
  at::Tensor result = values;
  if (std_.defined()) result = result.mul(std_.narrow(1, 0, result.size(1)));
  if (mean_.defined()) result = result.add(mean_.narrow(1, 0, result.size(1)));
  return result;
}

at::Tensor Output::in_range(const at::Tensor& values) const {
  if (!span_.defined()) return values;
  return values.sub(low_).div_(span_);
}

at::Tensor Output::planes(const at::Tensor& arranged) const {
  return in_range(normalized(activated(arranged))).contiguous();
}

at::Tensor Output::rounded(const at::Tensor& values) const {
  return values.nan_to_num(0).clamp_(0, 1).mul_(255).add_(half()).to(at::kByte);
}

at::Tensor Output::in_rgb(const at::Tensor& values) const {
  if (!bgr_ || values.size(1) < kColor) return values;
  at::Tensor rgb = values.narrow(1, 0, kColor).flip(1);
  if (values.size(1) == kColor) return rgb;
  return at::cat({rgb, values.narrow(1, kColor, 1)}, 1);
}

at::Tensor Output::classes(const at::Tensor& arranged) {
  if (arranged.size(1) > 1) return at::argmax(arranged, 1, /*keepdim=*/true).to(at::kByte);
  if (arranged.scalar_type() == at::kByte) return arranged;
  at::Tensor numbers = arranged;
  if (at::isFloatingType(numbers.scalar_type())) numbers = numbers.to(at::kFloat).nan_to_num(0).round();
  return numbers.clamp(0, kMaxClasses - 1).to(at::kByte);
}

at::Tensor Output::depth(const at::Tensor& arranged) const {
  const at::Tensor values = activated(arranged);
  const at::Tensor finite = at::isfinite(values);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const at::Tensor least = at::where(finite, values, kInfinity).amin({1, 2, 3}, /*keepdim=*/true);
  const at::Tensor greatest = at::where(finite, values, -kInfinity).amax({1, 2, 3}, /*keepdim=*/true);
  return rounded(values.sub(least).div_(greatest.sub(least)));  // 0/0 becomes 0
}

at::Tensor Output::chroma(const at::Tensor& arranged) const {
  constexpr float kUnits = 256;
  constexpr float kLeast = -32768;
  constexpr float kMost = 32767;
  const at::Tensor ab = normalized(activated(arranged)).mul(kUnits).nan_to_num(0).round().clamp(kLeast, kMost);
  return ab.to(at::kShort).permute({0, 2, 3, 1}).contiguous().view(at::kByte);
}

at::Tensor Output::bytes(const at::Tensor& arranged) const {
  const auto nhwc = [](const at::Tensor& nchw) { return nchw.permute({0, 2, 3, 1}).contiguous(); };
  switch (kind_) {
    case THD_CLASSES:
      return nhwc(classes(arranged));
    case THD_DEPTH:
      return nhwc(depth(arranged));
    case THD_CHROMA:
      return chroma(arranged);
    case THD_IMAGE:
    case THD_MASK:
      break;
  }
  if (is_bytes(arranged)) return nhwc(in_rgb(arranged));
  return nhwc(rounded(in_rgb(in_range(normalized(activated(arranged))))));
}

}  // namespace thd
