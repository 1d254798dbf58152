// Runs a deployed folder on its sample input, compares with the reference, and times it.
//
// usage: run_inference [FOLDER] [-n LOOPS] [-o DIR]        (default: ., 20, nowhere)
//
// Reads FOLDER/input_<i>.bin, writes DIR/output_<i>.bin, compares with FOLDER/interpreter_out/ref_result_<i>.bin.
// Exit status: 0 equal within tolerance, 1 error, 2 wrong usage, 3 different.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "drpai_qat.h"

namespace {

constexpr double kAbsolute = 0.01, kRelative = 0.001;  // tolerance of the board's own comparison tool

struct Options {
  std::string folder = ".", out;
  int loops = 20;
};

bool parse(int argc, char** argv, Options* options) {
  bool named = false;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if ((word == "-n" || word == "-o") && i + 1 < argc) {
      const char* value = argv[++i];
      if (word == "-o") options->out = value;
      if (word == "-n") options->loops = static_cast<int>(std::min(std::strtol(value, nullptr, 10), 1000000L));
    } else if (!named && word[0] != '-') {
      options->folder = word;
      named = true;
    } else {
      return false;
    }
  }
  return options->loops > 0;
}

// Reads a regular file of `bytes` bytes; why not, or "".
std::string read_file(const std::string& path, size_t bytes, std::vector<char>* data) {
  struct stat found;
  if (stat(path.c_str(), &found) != 0) return path + " can't be read (" + std::strerror(errno) + ")";
  if (!S_ISREG(found.st_mode)) return path + " is not a regular file";
  if (static_cast<size_t>(found.st_size) != bytes)
    return path + " has " + std::to_string(found.st_size) + " bytes, not " + std::to_string(bytes);
  data->resize(bytes);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(data->data(), static_cast<std::streamsize>(bytes))) return path + " can't be read";
  return "";
}

// A number as another type has it: its nearest end where it lies outside, 0 if it is not a number.
template <typename To, typename From>
To limited(From value) {
  if (value != value) return 0;
  double wide = static_cast<double>(value), low = static_cast<double>(std::numeric_limits<To>::lowest());
  if (wide <= low) return std::numeric_limits<To>::lowest();
  if (wide >= static_cast<double>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
  return static_cast<To>(value);
}

// Sample files are float32. A network with integer inputs gets their places on the grid, or the same numbers where they
// stand for themselves; and back.
template <typename T>
std::vector<char> from_float(const std::vector<char>& data, float scale, int32_t zero_point) {
  size_t count = data.size() / sizeof(float);
  std::vector<char> result(count * sizeof(T));
  for (size_t i = 0; i < count; ++i) {
    float real;
    std::memcpy(&real, data.data() + i * sizeof(float), sizeof(float));
    T value = scale == 0 ? limited<T>(real) : limited<T>(static_cast<double>(std::nearbyint(real / scale)) + zero_point);
    std::memcpy(result.data() + i * sizeof(T), &value, sizeof(T));
  }
  return result;
}

template <typename T>
std::vector<char> to_float(const std::vector<char>& data, float scale, int32_t zero_point) {
  size_t count = data.size() / sizeof(T);
  std::vector<char> result(count * sizeof(float));
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    float real = scale == 0 ? static_cast<float>(value)
                            : static_cast<float>(static_cast<int64_t>(value) - zero_point) * scale;
    std::memcpy(result.data() + i * sizeof(float), &real, sizeof(float));
  }
  return result;
}

using Conversion = std::vector<char> (*)(const std::vector<char>&, float, int32_t);

struct Conversions {
  Conversion from, to;
};

template <typename T>
Conversions both() {
  return {from_float<T>, to_float<T>};
}

// Of a type; null pointers: it is float32.
Conversions conversions(const std::string& dtype) {
  static const std::map<std::string, Conversions> known = {
      {"int8", both<int8_t>()},   {"uint8", both<uint8_t>()}, {"int16", both<int16_t>()}, {"uint16", both<uint16_t>()},
      {"int32", both<int32_t>()}, {"int64", both<int64_t>()}, {"float64", both<double>()}};
  auto found = known.find(dtype);
  return found == known.end() ? Conversions{nullptr, nullptr} : found->second;
}

size_t count_of(const drpai_qat_tensor* tensor) {
  size_t count = 1;
  for (int32_t i = 0; i < tensor->ndim; ++i) count *= static_cast<size_t>(tensor->shape[i]);
  return count;
}

int fail(const std::string& what) {
  std::fprintf(stderr, "error: %s\n", what.c_str());
  return 1;
}

// Prints how an output compares with its reference; true if it is within tolerance, or there is no reference.
bool compare(const std::string& path, const char* name, const std::vector<char>& got) {
  std::vector<char> want;
  if (access(path.c_str(), F_OK) != 0) {
    std::printf("output %s: no %s to compare with\n", name, path.c_str());
    return true;
  }
  std::string why = read_file(path, got.size(), &want);
  if (!why.empty()) {
    std::printf("output %s: %s\n", name, why.c_str());
    return false;
  }
  size_t count = got.size() / sizeof(float), inside = 0, equal = 0;
  double largest = 0;
  for (size_t i = 0; i < count; ++i) {
    float x, y;
    std::memcpy(&x, got.data() + i * sizeof(float), sizeof(float));
    std::memcpy(&y, want.data() + i * sizeof(float), sizeof(float));
    double error = std::fabs(static_cast<double>(x) - y);
    largest = error > largest || error != error ? error : largest;
    inside += error <= kAbsolute + kRelative * std::fabs(static_cast<double>(y));
    equal += std::memcmp(&x, &y, sizeof(float)) == 0;
  }
  std::printf("output %s: max difference %g, %.2f%% within tolerance, %.2f%% identical\n", name, largest,
              count == 0 ? 100.0 : 100.0 * inside / count, count == 0 ? 100.0 : 100.0 * equal / count);
  return inside == count;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, &options)) {
    std::fprintf(stderr, "usage: run_inference [FOLDER] [-n LOOPS] [-o DIR]\n");
    return 2;
  }
  std::unique_ptr<drpai_qat_network, void (*)(drpai_qat_network*)> owner(drpai_qat_load(options.folder.c_str()),
                                                                         drpai_qat_free);
  drpai_qat_network* network = owner.get();
  if (network == nullptr) return fail(drpai_qat_error());

  for (int32_t i = 0; i < drpai_qat_input_count(network); ++i) {
    const drpai_qat_tensor* input = drpai_qat_input(network, i);
    std::string path = options.folder + "/input_" + std::to_string(i) + ".bin";
    std::vector<char> data;
    std::string why = read_file(path, count_of(input) * sizeof(float), &data);
    if (!why.empty()) return fail(why + ": copy the whole folder");
    if (Conversion from = conversions(input->dtype).from) data = from(data, input->scale, input->zero_point);
    if (drpai_qat_set_input(network, i, data.data(), data.size()) != 0) return fail(path + ": " + drpai_qat_error());
  }

  std::vector<double> times;
  for (int loop = -1; loop < options.loops; ++loop) {  // the first run fills caches and pools and is not counted
    auto start = std::chrono::steady_clock::now();
    if (drpai_qat_run(network) != 0) return fail(drpai_qat_error());
    std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start;
    if (loop >= 0) times.push_back(passed.count());
  }

  bool same = true;
  for (int32_t i = 0; i < drpai_qat_output_count(network); ++i) {
    const drpai_qat_tensor* output = drpai_qat_output(network, i);
    std::vector<char> data(output->bytes);
    if (drpai_qat_get_output(network, i, data.data(), data.size()) != 0) return fail(drpai_qat_error());
    if (Conversion to = conversions(output->dtype).to) data = to(data, output->scale, output->zero_point);
    std::string path = options.out + "/output_" + std::to_string(i) + ".bin";
    if (!options.out.empty() &&
        !std::ofstream(path, std::ios::binary).write(data.data(), static_cast<std::streamsize>(data.size())))
      return fail(path + " can't be written: give a folder that is there");
    std::string reference = options.folder + "/interpreter_out/ref_result_" + std::to_string(i) + ".bin";
    same = compare(reference, output->name, data) && same;
  }
  std::sort(times.begin(), times.end());
  double sum = 0;
  for (double one : times) sum += one;
  const drpai_qat_tensor* first = drpai_qat_input(network, 0);
  double batch = first != nullptr && first->ndim > 0 ? static_cast<double>(first->shape[0]) : 1.0;
  std::printf("latency: min %.3f ms, median %.3f ms, p99 %.3f ms, max %.3f ms (%zu runs, %d threads); %.1f inferences/s\n",
              times.front(), times[times.size() / 2], times[(times.size() - 1) * 99 / 100], times.back(), times.size(),
              drpai_qat_threads(), 1000 * batch * static_cast<double>(times.size()) / sum);
  return same ? 0 : 3;
}
