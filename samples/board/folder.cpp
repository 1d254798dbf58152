// Implements folder.h.

#include "folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/extra/json.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>

#include "sha-256.h"

namespace ffi = tvm::ffi;

namespace drpai_qat {
namespace {

constexpr uint64_t kMostJson = 16 << 20;  // bytes of deploy.json
constexpr uint64_t kMostBytes = uint64_t{8} << 30;  // of the other files; a sparse one could have any number
constexpr int kMostNested = 64;           // the parser calls itself for each level
constexpr size_t kMostDims = 32, kMostTensors = 65536, kMostText = 4096;
constexpr int64_t kMostDim = int64_t{1} << 32;
constexpr uint64_t kListMagic = 0xF7E58D4F05049CB7, kTensorMagic = 0xDD5E40F096B4A13F;
constexpr size_t kAlignment = 64;  // what compiled code may assume of every tensor's address

const std::map<std::string, DLDataType>& types() {
  static const std::map<std::string, DLDataType> known = {
      {"float16", {kDLFloat, 16, 1}}, {"float32", {kDLFloat, 32, 1}}, {"float64", {kDLFloat, 64, 1}},
      {"int8", {kDLInt, 8, 1}},       {"int16", {kDLInt, 16, 1}},     {"int32", {kDLInt, 32, 1}},
      {"int64", {kDLInt, 64, 1}},     {"uint8", {kDLUInt, 8, 1}},     {"uint16", {kDLUInt, 16, 1}},
      {"uint32", {kDLUInt, 32, 1}},   {"uint64", {kDLUInt, 64, 1}},   {"bool", {kDLBool, 8, 1}}};
  return known;
}

bool is_known(DLDataType type) {
  return std::any_of(types().begin(), types().end(), [&](const auto& one) {
    return one.second.code == type.code && one.second.bits == type.bits && one.second.lanes == type.lanes;
  });
}

// Bytes of a shape; false if they, or the strides that leave dimensions of 0 out, go beyond a limit.
bool bytes_of(const std::vector<int64_t>& shape, DLDataType type, uint64_t limit, uint64_t* bytes) {
  uint64_t whole = type.bits / 8;
  bool empty = false;
  for (int64_t dim : shape) {
    if (dim < 0) return false;
    empty = empty || dim == 0;
    uint64_t factor = std::max<uint64_t>(static_cast<uint64_t>(dim), 1);
    if (whole > limit / factor) return false;
    whole *= factor;
  }
  *bytes = empty ? 0 : whole;
  return true;
}

struct Aligned {
  void AllocData(DLTensor* tensor) {
    size_t bytes = std::max(ffi::GetDataSize(*tensor), size_t{1});
    tensor->data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (tensor->data == nullptr) throw std::runtime_error("out of memory");
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

void check_nesting(const std::string& text, const std::string& path) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quoted && c == '\\') ++i;
    else if (c == '"') quoted = !quoted;
    else if (!quoted && (c == '[' || c == '{')) ++depth;
    else if (!quoted && (c == ']' || c == '}')) --depth;
    if (depth > kMostNested) throw std::runtime_error(path + " is damaged (nested too deep): copy it again");
  }
}

}  // namespace

File::File(const std::string& path, const std::string& advice) : path_(path) {
  number_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would be waited for
  if (number_ < 0) throw std::runtime_error(path + " can't be opened (" + std::strerror(errno) + "): " + advice);
  struct stat found;
  if (fstat(number_, &found) != 0 || !S_ISREG(found.st_mode)) {
    close(number_);
    throw std::runtime_error(path + " is not a regular file: " + advice);
  }
  size_ = left_ = static_cast<uint64_t>(found.st_size);
  if (size_ > kMostBytes) {
    close(number_);
    throw std::runtime_error(path + " has more than 8 GiB: " + advice);
  }
}

File::~File() { close(number_); }

void File::damaged(const std::string& why) const {
  throw std::runtime_error(path_ + " is damaged (" + why + "): copy it again");
}

void File::read(void* data, uint64_t bytes) {
  if (bytes > left_) damaged("ends early");
  char* next = static_cast<char*>(data);
  for (uint64_t wanted = bytes; wanted > 0;) {
    ssize_t got = ::read(number_, next, std::min<uint64_t>(wanted, 1 << 30));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) damaged(got < 0 ? std::strerror(errno) : "ends early");
    next += got;
    wanted -= static_cast<uint64_t>(got);
  }
  left_ -= bytes;
}

std::string File::text(uint64_t bytes) {
  if (bytes > left_) damaged("ends early");
  std::string content(bytes, '\0');
  read(&content[0], bytes);
  return content;
}

void File::check_hash(const std::string& expected) {
  uint8_t hash[SIZE_OF_SHA_256_HASH];
  struct Sha_256 state;
  sha_256_init(&state, hash);
  std::vector<char> part(1 << 16);
  while (left_ > 0) {
    uint64_t bytes = std::min<uint64_t>(left_, part.size());
    read(part.data(), bytes);
    sha_256_write(&state, part.data(), bytes);
  }
  sha_256_close(&state);
  std::string found;
  for (uint8_t byte : hash) {
    const char* digits = "0123456789abcdef";
    found += digits[byte >> 4];
    found += digits[byte & 15];
  }
  if (found != expected)
    throw std::runtime_error(path_ + " is not the file that was compiled (sha256 differs): copy it again");
  left_ = size_;
  if (lseek(number_, 0, SEEK_SET) != 0) damaged(std::strerror(errno));
}

void Value::wrong(const std::string& wanted) const {
  throw std::runtime_error("deploy.json is damaged: " + where_ + " is not " + wanted + ": copy it again");
}

Value Value::at(const char* key) const {
  auto map = content_.as<ffi::json::Object>();
  if (!map) wrong("an object");
  ffi::String name(key);
  std::string way = where_.empty() ? key : where_ + "." + key;
  if (map->count(name) == 0) throw std::runtime_error("deploy.json is damaged: " + way + " is missing: copy it again");
  return Value((*map)[name], way);
}

bool Value::has(const char* key) const {
  auto map = content_.as<ffi::json::Object>();
  return map && map->count(ffi::String(key)) != 0;
}

std::vector<std::string> Value::keys() const {
  auto map = content_.as<ffi::json::Object>();
  if (!map) wrong("an object");
  std::vector<std::string> found;
  for (const auto& one : *map) found.push_back(Value(one.first, where_).text());
  return found;
}

bool Value::is_null() const { return content_ == nullptr; }

bool Value::is_list() const { return content_.as<ffi::json::Array>().has_value(); }

std::vector<Value> Value::items(size_t most) const {
  auto list = content_.as<ffi::json::Array>();
  if (!list || list->size() > most) wrong("a list of at most " + std::to_string(most));
  std::vector<Value> values;
  for (const ffi::Any& one : *list) values.emplace_back(one, where_ + "[" + std::to_string(values.size()) + "]");
  return values;
}

std::string Value::text() const {
  auto found = content_.as<ffi::String>();
  if (!found) wrong("a text");
  std::string text(*found);
  if (text.size() > kMostText || text.find('\0') != std::string::npos) wrong("a text");
  return text;
}

int64_t Value::whole(int64_t low, int64_t high) const {
  std::optional<int64_t> found;
  if (content_.type_index() == ffi::TypeIndex::kTVMFFIInt) found = content_.as<int64_t>();
  if (!found || *found < low || *found > high)
    wrong("a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  return *found;
}

double Value::number() const {
  std::optional<double> found;
  int32_t type = content_.type_index();
  if (type == ffi::TypeIndex::kTVMFFIInt || type == ffi::TypeIndex::kTVMFFIFloat) found = content_.as<double>();
  if (!found || !std::isfinite(*found)) wrong("a finite number");
  return *found;
}

Value read_json(const std::string& path) {
  File file(path);
  if (file.left() > kMostJson) file.damaged("more than 16 MB");
  std::string text = file.text(file.left());
  check_nesting(text, path);
  ffi::String problem;
  ffi::Any value = ffi::json::Parse(ffi::String(text), &problem);
  if (!problem.empty()) file.damaged(std::string(problem));
  return Value(value, "");
}

std::vector<Description> read_descriptions(const Value& list, uint64_t* left) {
  std::vector<Description> found;
  for (const Value& one : list.items(kMostTensors)) {
    Description entry;
    entry.name = one.at("name").text();
    entry.dtype = one.at("dtype").text();
    auto known = types().find(entry.dtype);
    if (known == types().end()) one.at("dtype").wrong("a type of numbers");
    entry.type = known->second;
    for (const Value& dim : one.at("shape").items(kMostDims)) entry.shape.push_back(dim.whole(0, kMostDim));
    if (!bytes_of(entry.shape, entry.type, *left, &entry.bytes)) one.at("shape").wrong("within 4 GiB");
    *left -= entry.bytes;
    Value grid = one.at("quantization");
    if (entry.type.code != kDLFloat && !grid.is_null()) {
      float scale = static_cast<float>(grid.at("scale").number());
      if (!(scale >= std::numeric_limits<float>::min() && scale <= std::numeric_limits<float>::max()))
        grid.at("scale").wrong("a positive number");
      int64_t low = grid.at("qmin").whole(-65536, 65536), high = grid.at("qmax").whole(low, 65536);
      entry.grid = {scale, static_cast<int32_t>(grid.at("zero_point").whole(-65536, 65536)), static_cast<int32_t>(low),
                    static_cast<int32_t>(high)};
    }
    found.push_back(entry);
  }
  return found;
}

ffi::Tensor new_tensor(const std::vector<int64_t>& shape, DLDataType type) {
  return ffi::Tensor::FromNDAlloc(Aligned(), ffi::ShapeView(shape.data(), shape.size()), type, DLDevice{kDLCPU, 0});
}

// Little-endian, as TVM writes it: magic, 0, names; then for each tensor magic, 0, device, type, shape, bytes, values.
std::vector<ffi::Tensor> read_parameters(File* file) {
  if (file->number_of<uint64_t>() != kListMagic || file->number_of<uint64_t>() != 0) file->damaged("another head");
  uint64_t count = file->number_of<uint64_t>();
  if (count > file->left() / sizeof(uint64_t)) file->damaged("ends early");
  std::vector<std::string> names;
  for (uint64_t i = 0; i < count; ++i) names.push_back(file->text(file->number_of<uint64_t>()));
  if (file->number_of<uint64_t>() != count) file->damaged("another number of tensors");
  std::map<std::string, ffi::Tensor> tensors;
  for (const std::string& name : names) {
    if (file->number_of<uint64_t>() != kTensorMagic || file->number_of<uint64_t>() != 0)
      file->damaged("another head of a tensor");
    file->number_of<uint64_t>();  // the device it was stored from
    int32_t rank = file->number_of<int32_t>();
    DLDataType type;
    type.code = file->number_of<uint8_t>();
    type.bits = file->number_of<uint8_t>();
    type.lanes = file->number_of<uint16_t>();
    if (!is_known(type)) file->damaged("a tensor of another type");
    if (rank < 0 || static_cast<size_t>(rank) > kMostDims) file->damaged("a tensor of too many dimensions");
    std::vector<int64_t> shape(static_cast<size_t>(rank));
    for (int64_t& dim : shape) dim = file->number_of<int64_t>();
    uint64_t bytes = 0, said = file->number_of<uint64_t>();
    if (said > file->left()) file->damaged("ends early");
    if (!bytes_of(shape, type, std::max<uint64_t>(said, uint64_t{1} << 32), &bytes) || bytes != said)
      file->damaged("a tensor whose shape and size differ");
    ffi::Tensor tensor = new_tensor(shape, type);
    file->read(tensor.data_ptr(), bytes);
    if (!tensors.emplace(name, tensor).second) file->damaged("a name twice");
  }
  if (file->left() != 0) file->damaged("too long");
  std::vector<ffi::Tensor> sorted;
  for (const auto& [name, tensor] : tensors) sorted.push_back(tensor);
  return sorted;
}

}  // namespace drpai_qat
