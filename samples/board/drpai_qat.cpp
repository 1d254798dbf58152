// Implements drpai_qat.h with TVM's runtime: libtvm_runtime.so and libtvm_ffi.so, no compiler, no Python.

#include "drpai_qat.h"

#include <sched.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "folder.h"
#include "image_input.h"

namespace ffi = tvm::ffi;

namespace {

constexpr int kPooledAllocator = 2;
constexpr uint64_t kMostTensorBytes = uint64_t{4} << 30;  // of all inputs and outputs together
constexpr const char* kFormat = "drpai-qat/1";

thread_local std::string last_error;

struct Entry : drpai_qat::Description {
  drpai_qat_tensor view;
};

std::vector<Entry> entries(const drpai_qat::Value& list, uint64_t* left) {
  std::vector<Entry> found;
  for (const drpai_qat::Description& one : drpai_qat::read_descriptions(list, left)) found.push_back({one, {}});
  for (Entry& entry : found)  // only now: the vector no longer moves them
    entry.view = {entry.name.c_str(), entry.dtype.c_str(), static_cast<int32_t>(entry.shape.size()),
                  entry.shape.data(), static_cast<size_t>(entry.bytes), entry.grid.scale, entry.grid.zero_point,
                  entry.grid.low, entry.grid.high};
  return found;
}

// No more threads than cores: TVM takes seconds to end each one beyond, and ends the process where one can't start.
void bound_threads() {
  const char* name = std::getenv("TVM_NUM_THREADS") != nullptr ? "TVM_NUM_THREADS" : "OMP_NUM_THREADS";
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return;
  long count = std::strtol(text, nullptr, 10);
  if (count < 1)
    throw std::runtime_error(std::string(name) + "=" + text + " is no number of threads: set 1 or more, or unset it");
  cpu_set_t own;
  long cores = sched_getaffinity(0, sizeof(own), &own) == 0 ? CPU_COUNT(&own) : 1;
  if (count > cores) setenv("TVM_NUM_THREADS", std::to_string(cores).c_str(), 1);
}

// A path to an open file. The dynamic loader takes a path that it knows for the file that it knows, so each load has
// one of its own: the bits of a counter, written as "/." and "/", which lead nowhere.
std::string own_path(int number) {
  static std::atomic<uint64_t> loads{0};
  std::string path = "/proc/self/fd";
  for (uint64_t bits = ++loads; bits != 0; bits >>= 1) path += (bits & 1) != 0 ? "/." : "/";
  return path + "/" + std::to_string(number);
}

ffi::Function function_of(const ffi::Module& module, const char* name) {
  ffi::Optional<ffi::Function> found = module->GetFunction(name);
  if (!found.has_value()) throw std::runtime_error(std::string("deploy.so has no ") + name + ": compile it again");
  return found.value();
}

}  // namespace

struct drpai_qat_network {
  std::vector<Entry> inputs, outputs;
  std::vector<ffi::Tensor> arguments;  // the inputs, then the parameters
  std::vector<ffi::Tensor> results;
  ffi::Optional<ffi::Module> library, vm;  // kept loaded as long as `main` may run
  ffi::Function main{nullptr};
  std::optional<drpai_qat::Value> preprocessing;  // looked at when there is an image
  std::optional<drpai_qat::ImageInput> image;
  int32_t image_index = -1;

  explicit drpai_qat_network(const std::string& folder) {
    bound_threads();
    drpai_qat::Value manifest = drpai_qat::read_json(folder + "/deploy.json");
    std::string format = manifest.at("format").text();
    if (format != kFormat) throw std::runtime_error(folder + "/deploy.json has format " + format + ", not " + kFormat);
    uint64_t left = kMostTensorBytes;
    if (manifest.has("preprocessing")) preprocessing = manifest.at("preprocessing");
    inputs = entries(manifest.at("inputs"), &left);
    outputs = entries(manifest.at("outputs"), &left);
    drpai_qat::File code(folder + "/deploy.so"), weights(folder + "/deploy.params");
    code.check_hash(manifest.at("files").at("deploy.so").text());
    weights.check_hash(manifest.at("files").at("deploy.params").text());
    for (const Entry& entry : inputs) {
      arguments.push_back(drpai_qat::new_tensor(entry.shape, entry.type));
      std::memset(arguments.back().data_ptr(), 0, entry.view.bytes);
    }
    for (const ffi::Tensor& one : drpai_qat::read_parameters(&weights)) arguments.push_back(one);  // by name, as `main`
    library = ffi::Function::GetGlobalRequired("ffi.Module.load_from_file.so")(own_path(code.number()), "so")
                  .cast<ffi::Module>();
    vm = function_of(library.value(), "vm_load_executable")().cast<ffi::Module>();
    function_of(vm.value(), "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    main = function_of(vm.value(), "main");
  }

  const drpai_qat::ImageInput& image_of(int32_t index) {
    if (image_index == index) return *image;
    if (!preprocessing || preprocessing->is_null())
      throw std::runtime_error("deploy.json does not record how an image becomes an input: compile it with --images, or give arrays");
    image.emplace(*preprocessing, inputs[static_cast<size_t>(index)]);
    image_index = index;
    return *image;
  }

  void run() {
    std::vector<ffi::AnyView> packed(arguments.begin(), arguments.end());
    ffi::Any result;
    main.CallPacked(packed.data(), static_cast<int32_t>(packed.size()), &result);
    results.clear();
    if (auto one = result.as<ffi::Tensor>()) {
      results.push_back(one.value());
    } else {
      for (const ffi::Tensor& tensor : result.cast<ffi::Array<ffi::Tensor>>()) results.push_back(tensor);
    }
    bool same = results.size() == outputs.size();
    for (size_t i = 0; same && i < results.size(); ++i)
      same = results[i].dtype() == outputs[i].type && ffi::GetDataSize(*results[i].GetDLTensorPtr()) == outputs[i].bytes;
    if (same) return;
    results.clear();
    throw std::runtime_error("deploy.so and deploy.json don't belong together: copy the whole folder again");
  }
};

namespace {

// Turn exceptions into -1 and a message of one line.
template <typename Work>
int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {  // tvm::ffi::Error derives from it
    last_error = error.what();
  } catch (...) {
    last_error = "unknown error";
  }
  last_error = last_error.substr(0, last_error.find('\n'));
  return -1;
}

const Entry& checked(const std::vector<Entry>& entries, int32_t index, size_t bytes, const char* kind) {
  if (index < 0 || static_cast<size_t>(index) >= entries.size())
    throw std::runtime_error(std::string("no ") + kind + " " + std::to_string(index) + ": there are " +
                             std::to_string(entries.size()));
  const Entry& entry = entries[index];
  if (bytes != entry.view.bytes)
    throw std::runtime_error(std::string(kind) + " " + entry.name + " has " + std::to_string(entry.view.bytes) +
                             " bytes, not " + std::to_string(bytes));
  return entry;
}

const drpai_qat_tensor* view(const std::vector<Entry>& entries, int32_t index) {
  return index >= 0 && static_cast<size_t>(index) < entries.size() ? &entries[index].view : nullptr;
}

}  // namespace

extern "C" {

drpai_qat_network* drpai_qat_load(const char* folder) {
  drpai_qat_network* network = nullptr;
  guarded([&] { network = new drpai_qat_network(folder == nullptr ? "" : folder); });
  return network;
}

void drpai_qat_free(drpai_qat_network* network) { delete network; }

int32_t drpai_qat_input_count(const drpai_qat_network* network) { return static_cast<int32_t>(network->inputs.size()); }

int32_t drpai_qat_output_count(const drpai_qat_network* network) {
  return static_cast<int32_t>(network->outputs.size());
}

const drpai_qat_tensor* drpai_qat_input(const drpai_qat_network* network, int32_t index) {
  return view(network->inputs, index);
}

const drpai_qat_tensor* drpai_qat_output(const drpai_qat_network* network, int32_t index) {
  return view(network->outputs, index);
}

int drpai_qat_set_input(drpai_qat_network* network, int32_t index, const void* data, size_t bytes) {
  return guarded([&] {
    checked(network->inputs, index, bytes, "input");
    std::memcpy(network->arguments[index].data_ptr(), data, bytes);
  });
}

int drpai_qat_set_image(drpai_qat_network* network, int32_t index, const uint8_t* pixels, int32_t height, int32_t width,
                        int32_t channels) {
  return guarded([&] {
    if (index < 0 || static_cast<size_t>(index) >= network->inputs.size())
      throw std::runtime_error("no input " + std::to_string(index) + ": there are " + std::to_string(network->inputs.size()));
    if (height < 1 || width < 1 || channels < 1 || channels > 4 || int64_t{height} * width > drpai_qat::kMostPixels)
      throw std::runtime_error("no image: " + std::to_string(width) + " x " + std::to_string(height) + " pixels");
    const drpai_qat::ImageInput& way = network->image_of(index);
    drpai_qat::Image image{height, width, channels, {}};
    image.pixels.assign(pixels, pixels + int64_t{height} * width * channels);
    std::vector<char> values = way.prepared(image);
    checked(network->inputs, index, values.size(), "input");
    std::memcpy(network->arguments[static_cast<size_t>(index)].data_ptr(), values.data(), values.size());
  });
}

int drpai_qat_run(drpai_qat_network* network) {
  return guarded([&] { network->run(); });
}

int drpai_qat_get_output(drpai_qat_network* network, int32_t index, void* data, size_t bytes) {
  return guarded([&] {
    checked(network->outputs, index, bytes, "output");
    if (network->results.empty()) throw std::runtime_error("no run yet: call drpai_qat_run first");
    const ffi::Tensor& result = network->results[index];
    std::memcpy(data, static_cast<const char*>(result.data_ptr()) + result.byte_offset(), bytes);
  });
}

int32_t drpai_qat_threads(void) {
  int32_t threads = 0;
  guarded([&] { threads = ffi::Function::GetGlobalRequired("runtime.NumThreads")().cast<int32_t>(); });
  return threads;
}

const char* drpai_qat_error(void) { return last_error.c_str(); }

}  // extern "C"
