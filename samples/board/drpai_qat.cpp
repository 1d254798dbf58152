// Implements drpai_qat.h with TVM's runtime: libtvm_runtime.so and libtvm_ffi.so, no compiler, no Python.

#include "drpai_qat.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr size_t kAlignment = 64;  // what compiled code may assume of every tensor's address
constexpr int kPooledAllocator = 2;
constexpr const char* kFormat = "drpai-qat/1";

thread_local std::string last_error;

// Memory of input tensors.
struct Aligned {
  void AllocData(DLTensor* tensor) {
    size_t bytes = std::max(ffi::GetDataSize(*tensor), size_t{1});
    tensor->data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (tensor->data == nullptr) throw std::runtime_error("out of memory");
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

struct Entry {
  std::string name, dtype;
  std::vector<int64_t> shape;
  DLDataType type;
  drpai_qat_tensor view;
};

ffi::Any field(const ffi::Any& object, const char* key) {
  auto map = object.cast<ffi::json::Object>();
  ffi::String name(key);
  if (map.count(name) == 0) throw std::runtime_error(std::string("deploy.json has no \"") + key + "\": copy it again");
  return map[name];
}

std::vector<Entry> read_entries(const ffi::Any& list) {
  std::vector<Entry> entries;
  for (const ffi::Any& one : list.cast<ffi::json::Array>()) {
    Entry entry;
    entry.name = std::string(field(one, "name").cast<ffi::String>());
    entry.dtype = std::string(field(one, "dtype").cast<ffi::String>());
    entry.type = ffi::StringToDLDataType(ffi::String(entry.dtype));
    for (const ffi::Any& dim : field(one, "shape").cast<ffi::json::Array>()) entry.shape.push_back(dim.cast<int64_t>());
    entries.push_back(entry);
  }
  for (Entry& entry : entries) {  // only now: the vector no longer moves them
    size_t bytes = (entry.type.bits + 7) / 8;
    for (int64_t dim : entry.shape) bytes *= static_cast<size_t>(dim);
    entry.view = {entry.name.c_str(), entry.dtype.c_str(), static_cast<int32_t>(entry.shape.size()),
                  entry.shape.data(), bytes};
  }
  return entries;
}

ffi::Any read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + " can't be opened: give a folder that the compile command wrote");
  std::stringstream text;
  text << file.rdbuf();
  ffi::String problem;
  ffi::Any value = ffi::json::Parse(ffi::String(text.str()), &problem);
  if (!problem.empty()) throw std::runtime_error(path + " is damaged: copy it again (" + std::string(problem) + ")");
  return value;
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

  explicit drpai_qat_network(std::string folder) {
    if (folder.find('/') == std::string::npos) folder = "./" + folder;  // else the loader searches its own folders
    ffi::Any manifest = read_json(folder + "/deploy.json");
    std::string format(field(manifest, "format").cast<ffi::String>());
    if (format != kFormat) throw std::runtime_error(folder + "/deploy.json has format " + format + ", not " + kFormat);
    inputs = read_entries(field(manifest, "inputs"));
    outputs = read_entries(field(manifest, "outputs"));
    for (const Entry& entry : inputs) {
      ffi::ShapeView shape(entry.shape.data(), entry.shape.size());
      ffi::Tensor tensor = ffi::Tensor::FromNDAlloc(Aligned(), shape, entry.type, DLDevice{kDLCPU, 0});
      std::memset(tensor.data_ptr(), 0, entry.view.bytes);
      arguments.push_back(tensor);
    }
    append_parameters(folder + "/deploy.params");
    library = ffi::Module::LoadFromFile(folder + "/deploy.so");
    vm = function_of(library.value(), "vm_load_executable")().cast<ffi::Module>();
    function_of(vm.value(), "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    main = function_of(vm.value(), "main");
  }

  // `main` takes the parameters in the order of their names.
  void append_parameters(const std::string& path) {
    ffi::Any loaded = ffi::Function::GetGlobalRequired("runtime.LoadParamsFromFile")(path);
    std::vector<std::pair<std::string, ffi::Tensor>> parameters;
    for (const auto& [name, value] : loaded.cast<ffi::Map<ffi::String, ffi::Tensor>>())
      parameters.emplace_back(std::string(name), value);
    std::sort(parameters.begin(), parameters.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [name, value] : parameters) arguments.push_back(value);
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
    if (results.size() != outputs.size()) throw std::runtime_error("deploy.so and deploy.json don't belong together");
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
  guarded([&] { network = new drpai_qat_network(folder); });
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

int drpai_qat_run(drpai_qat_network* network) {
  return guarded([&] { network->run(); });
}

int drpai_qat_get_output(drpai_qat_network* network, int32_t index, void* data, size_t bytes) {
  return guarded([&] {
    checked(network->outputs, index, bytes, "output");
    if (network->results.empty()) throw std::runtime_error("no run yet: call drpai_qat_run first");
    const ffi::Tensor& result = network->results[index];
    if (ffi::GetDataSize(*result.GetDLTensorPtr()) != bytes)
      throw std::runtime_error("deploy.so and deploy.json don't belong together: copy the whole folder again");
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
