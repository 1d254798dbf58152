// Runs a deployed folder on its sample input, compares with the reference, and times it.
//
// usage: run_inference [FOLDER] [-n LOOPS] [-o DIR]        (default: ., 20, FOLDER)
//
// Reads FOLDER/input_<i>.bin, writes DIR/output_<i>.bin, compares with FOLDER/interpreter_out/ref_result_<i>.bin.
// Exit status: 0 equal within tolerance, 1 error, 2 wrong usage, 3 different.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
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
      if (word == "-n") options->loops = std::atoi(value);
    } else if (!named && word[0] != '-') {
      options->folder = word;
      named = true;
    } else {
      return false;
    }
  }
  if (options->out.empty()) options->out = options->folder;
  return options->loops > 0;
}

bool read_file(const std::string& path, std::vector<char>* data) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  data->assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  return true;
}

// Sample files are float32; a network with integer inputs gets the same numbers as integers, and back.
template <typename To, typename From>
std::vector<char> convert(const std::vector<char>& data) {
  size_t count = data.size() / sizeof(From);
  std::vector<char> result(count * sizeof(To));
  for (size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, data.data() + i * sizeof(From), sizeof(From));
    To converted = static_cast<To>(value);
    std::memcpy(result.data() + i * sizeof(To), &converted, sizeof(To));
  }
  return result;
}

std::vector<char> from_float(const std::vector<char>& data, const std::string& dtype) {
  if (dtype == "int8") return convert<int8_t, float>(data);
  if (dtype == "uint8") return convert<uint8_t, float>(data);
  if (dtype == "int32") return convert<int32_t, float>(data);
  if (dtype == "int64") return convert<int64_t, float>(data);
  return data;
}

std::vector<char> to_float(const std::vector<char>& data, const std::string& dtype) {
  if (dtype == "int8") return convert<float, int8_t>(data);
  if (dtype == "uint8") return convert<float, uint8_t>(data);
  if (dtype == "int32") return convert<float, int32_t>(data);
  if (dtype == "int64") return convert<float, int64_t>(data);
  return data;
}

int fail(const std::string& what) {
  std::fprintf(stderr, "error: %s\n", what.c_str());
  return 1;
}

// Prints how an output compares with its reference; true if it is within tolerance, or there is no reference.
bool compare(const std::string& path, const char* name, const std::vector<char>& got) {
  std::vector<char> want;
  if (!read_file(path, &want)) {
    std::printf("output %s: no %s to compare with\n", name, path.c_str());
    return true;
  }
  if (want.size() != got.size()) {
    std::printf("output %s: %zu bytes, the reference has %zu\n", name, got.size(), want.size());
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
              100.0 * inside / count, 100.0 * equal / count);
  return inside == count;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, &options)) {
    std::fprintf(stderr, "usage: run_inference [FOLDER] [-n LOOPS] [-o DIR]\n");
    return 2;
  }
  drpai_qat_network* network = drpai_qat_load(options.folder.c_str());
  if (network == nullptr) return fail(drpai_qat_error());

  for (int32_t i = 0; i < drpai_qat_input_count(network); ++i) {
    const drpai_qat_tensor* input = drpai_qat_input(network, i);
    std::string path = options.folder + "/input_" + std::to_string(i) + ".bin";
    std::vector<char> data;
    if (!read_file(path, &data)) return fail(path + " can't be read");
    data = from_float(data, input->dtype);
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
    data = to_float(data, output->dtype);
    std::string path = options.out + "/output_" + std::to_string(i) + ".bin";
    if (!std::ofstream(path, std::ios::binary).write(data.data(), static_cast<std::streamsize>(data.size())))
      return fail(path + " can't be written: choose a folder with -o");
    std::string reference = options.folder + "/interpreter_out/ref_result_" + std::to_string(i) + ".bin";
    same = compare(reference, output->name, data) && same;
  }
  std::sort(times.begin(), times.end());
  std::printf("latency: min %.3f ms, median %.3f ms, max %.3f ms (%zu runs, %d threads)\n", times.front(),
              times[times.size() / 2], times.back(), times.size(), drpai_qat_threads());
  drpai_qat_free(network);
  return same ? 0 : 3;
}
