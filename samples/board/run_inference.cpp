// Runs a deployed folder on its sample input, compares with the reference, and times it; or runs it on files.
//
// usage: run_inference [FOLDER] [-i FILE ...] [-n LOOPS] [-w RUNS] [-o DIR] [--threads N]     (default: ., 20, 1, nowhere)
//
// Reads FOLDER/input_<i>.bin and compares with FOLDER/interpreter_out/ref_result_<i>.bin. FILE: a PNG or JPEG image,
// prepared as deploy.json records, .npz, .npy or .bin (raw float32); of a network with several inputs a .npz, or a file
// for each in their order. Writes DIR/output_<i>.bin, float32; of several samples output_<i>_<k>.bin.
// Exit status: 0 equal within tolerance, or run on files, 1 error, 2 wrong usage, 3 different.

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
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "drpai_qat.h"
#include "given_files.h"
#include "numbers.h"

using drpai_qat::Sample;
using drpai_qat::Values;

namespace {

constexpr double kAbsolute = 0.01, kRelative = 0.001;  // tolerance of the board's own comparison tool
constexpr size_t kShown = 5;                           // largest values of an output
constexpr long kMostRuns = 1000000;

struct Options {
  std::string folder = ".", out;
  std::vector<std::string> files;
  int loops = 20, warm_up = 1, threads = 0;
};

bool number(const char* text, int least, int* value) {
  char* end = nullptr;
  long found = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || found < least) return false;
  *value = static_cast<int>(std::min(found, kMostRuns));
  return true;
}

bool parse(int argc, char** argv, Options* options) {
  bool named = false;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (word[0] != '-' && !named) {
      options->folder = word;
      named = true;
      continue;
    }
    if (value == nullptr) return false;
    if (word == "-o") options->out = value;
    else if (word == "-i") options->files.push_back(value);
    else if (!(word == "-n" && number(value, 1, &options->loops)) && !(word == "-w" && number(value, 0, &options->warm_up)) &&
             !(word == "--threads" && number(value, 1, &options->threads)))
      return false;
    ++i;
  }
  return true;
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

bool set(drpai_qat_network* network, const Sample& sample) {
  const drpai_qat::Image& image = sample.image;
  if (image.height > 0)
    return drpai_qat_set_image(network, 0, image.pixels.data(), static_cast<int32_t>(image.height),
                               static_cast<int32_t>(image.width), static_cast<int32_t>(image.channels)) == 0;
  for (size_t i = 0; i < sample.inputs.size(); ++i)
    if (drpai_qat_set_input(network, static_cast<int32_t>(i), sample.inputs[i].data(), sample.inputs[i].size()) != 0) return false;
  return true;
}

// All outputs of the last run as float32; empty if they can't be had.
std::vector<Values> outputs_of(drpai_qat_network* network) {
  std::vector<Values> found;
  for (int32_t i = 0; i < drpai_qat_output_count(network); ++i) {
    const drpai_qat_tensor* output = drpai_qat_output(network, i);
    Values data(output->bytes);
    if (drpai_qat_get_output(network, i, data.data(), data.size()) != 0) return {};
    found.push_back(drpai_qat::to_reals(data, output->dtype, drpai_qat::grid_of(output)));
  }
  return found;
}

// What came out, in words: the largest values of a row of scores, else the ends.
void tell(const std::string& name, const drpai_qat_tensor* output, const Values& data) {
  std::vector<float> values(data.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), data.data(), values.size() * sizeof(float));
  std::string shape;
  int64_t longest = 1;
  for (int32_t i = 0; i < output->ndim; ++i) {
    shape += (i == 0 ? "" : ", ") + std::to_string(output->shape[i]);
    longest = std::max(longest, output->shape[i]);
  }
  std::printf("%s: %s [%s]: ", name.c_str(), output->name, shape.c_str());
  if (values.size() > 1 && static_cast<int64_t>(values.size()) == longest) {
    std::vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    size_t shown = std::min(kShown, order.size());
    auto larger = [&](size_t a, size_t b) {
      float x = std::isnan(values[a]) ? -INFINITY : values[a], y = std::isnan(values[b]) ? -INFINITY : values[b];
      return x > y || (x == y && a < b);
    };
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown), order.end(), larger);
    for (size_t i = 0; i < shown; ++i) std::printf("%s%zu (%.4g)", i == 0 ? "largest " : ", ", order[i], values[order[i]]);
    std::printf("\n");
  } else if (values.size() == 1) {
    std::printf("%.6g\n", values[0]);
  } else if (values.empty()) {
    std::printf("empty\n");
  } else {
    auto ends = std::minmax_element(values.begin(), values.end());
    std::printf("%.4g to %.4g\n", *ends.first, *ends.second);
  }
}

// Writes output_<i>.bin, or of several samples output_<i>_<k>.bin; why not, or "".
std::string write_outputs(const std::string& folder, const std::vector<std::vector<Values>>& outputs) {
  if (mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST) return folder + " can't be made (" + std::strerror(errno) + ")";
  for (size_t k = 0; k < outputs.size(); ++k)
    for (size_t i = 0; i < outputs[k].size(); ++i) {
      std::string tail = outputs.size() == 1 ? ".bin" : "_" + std::to_string(k) + ".bin";
      std::string path = folder + "/output_" + std::to_string(i) + tail;
      const Values& data = outputs[k][i];
      if (!std::ofstream(path, std::ios::binary).write(data.data(), static_cast<std::streamsize>(data.size())))
        return path + " can't be written: give a folder that can";
    }
  return "";
}

bool same_folder(const std::string& one, const std::string& other) {
  struct stat first, second;
  return stat(one.c_str(), &first) == 0 && stat(other.c_str(), &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

// Of sorted numbers, between two of them where it falls there, as numpy has it.
double quantile(const std::vector<double>& sorted, double share) {
  double place = share * static_cast<double>(sorted.size() - 1);
  size_t below = static_cast<size_t>(place), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// Runs it `warm_up` times, and `loops` times for the clock; false if it fails.
bool measure(drpai_qat_network* network, const Options& options) {
  std::vector<double> times;
  for (int loop = -options.warm_up; loop < options.loops; ++loop) {
    auto start = std::chrono::steady_clock::now();
    if (drpai_qat_run(network) != 0) return false;
    std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start;
    if (loop >= 0) times.push_back(passed.count());
  }
  std::sort(times.begin(), times.end());
  double sum = 0;
  for (double one : times) sum += one;
  const drpai_qat_tensor* first = drpai_qat_input(network, 0);
  double batch = first != nullptr && first->ndim > 0 ? static_cast<double>(first->shape[0]) : 1.0;
  std::printf("latency: min %.3f ms, median %.3f ms, p99 %.3f ms, max %.3f ms\n", times.front(), quantile(times, 0.5),
              quantile(times, 0.99), times.back());
  std::printf("         (%zu runs, %d threads); %.1f inferences/s\n", times.size(), drpai_qat_threads(),
              1000 * batch * static_cast<double>(times.size()) / sum);
  return true;
}

// The sample input that lies in the folder; why not, or "".
std::string read_own(const std::string& folder, const std::vector<const drpai_qat_tensor*>& inputs, Sample* sample) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::string path = folder + "/input_" + std::to_string(i) + ".bin";
    Values data;
    std::string why = read_file(path, count_of(inputs[i]) * sizeof(float), &data);
    if (!why.empty()) return why + ": copy the whole folder";
    sample->inputs.push_back(drpai_qat::from_reals(data, inputs[i]->dtype, drpai_qat::grid_of(inputs[i])));
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, &options)) {
    std::fprintf(stderr, "usage: run_inference [FOLDER] [-i FILE ...] [-n LOOPS] [-w RUNS] [-o DIR] [--threads N]\n");
    return 2;
  }
  if (!options.out.empty() && same_folder(options.out, options.folder))
    return fail("-o is the network's own folder: name another one");
  if (options.threads > 0) setenv("TVM_NUM_THREADS", std::to_string(options.threads).c_str(), 1);
  std::unique_ptr<drpai_qat_network, void (*)(drpai_qat_network*)> owner(drpai_qat_load(options.folder.c_str()),
                                                                         drpai_qat_free);
  drpai_qat_network* network = owner.get();
  if (network == nullptr) return fail(drpai_qat_error());
  std::vector<const drpai_qat_tensor*> inputs;
  for (int32_t i = 0; i < drpai_qat_input_count(network); ++i) inputs.push_back(drpai_qat_input(network, i));

  std::vector<Sample> samples;
  bool own = options.files.empty(), same = true;
  try {
    if (own) {
      samples.emplace_back();
      std::string why = read_own(options.folder, inputs, &samples[0]);
      if (!why.empty()) return fail(why);
    } else {
      samples = drpai_qat::read_samples(options.files, inputs);
    }
    std::vector<std::vector<Values>> outputs;
    for (const Sample& sample : samples) {
      if (!set(network, sample)) return fail((own ? "" : "-i " + sample.name + ": ") + drpai_qat_error());
      if (drpai_qat_run(network) != 0) return fail(drpai_qat_error());
      outputs.push_back(outputs_of(network));
      if (outputs.back().empty()) return fail(drpai_qat_error());
    }
    for (size_t k = 0; k < samples.size(); ++k)
      for (size_t i = 0; i < outputs[k].size(); ++i) {
        const drpai_qat_tensor* output = drpai_qat_output(network, static_cast<int32_t>(i));
        std::string reference = options.folder + "/interpreter_out/ref_result_" + std::to_string(i) + ".bin";
        if (own) same = compare(reference, output->name, outputs[k][i]) && same;
        else tell(samples[k].name, output, outputs[k][i]);
      }
    std::string why = options.out.empty() ? "" : write_outputs(options.out, outputs);
    if (!why.empty()) return fail(why);
  } catch (const std::exception& error) {  // of a file of the user's, or memory ran out
    return fail(error.what());
  }
  if (samples.size() > 1 && !set(network, samples[0])) return fail(drpai_qat_error());
  if (!measure(network, options)) return fail(drpai_qat_error());
  return same ? 0 : 3;
}
