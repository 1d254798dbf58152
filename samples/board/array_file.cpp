// Implements array_file.h.
#include "array_file.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "folder.h"
#include "image_file.h"

namespace drpai_qat {
namespace {

constexpr uint64_t kMostFile = uint64_t{1} << 30;
constexpr size_t kMostHeader = 65536, kMostMembers = 65536, kMostDims = 32;

[[noreturn]] void refuse(const std::string& why) { throw std::runtime_error(why); }

std::vector<char> content_of(const std::string& path) {
  File file(path, "give another file");
  if (file.left() > kMostFile) refuse("has more than 1 GB");
  std::vector<char> content(file.left());
  file.read(content.data(), content.size());
  return content;
}

uint64_t number(const std::vector<char>& data, size_t at, size_t bytes) {
  if (at > data.size() || bytes > data.size() - at) refuse("damaged: it ends early");
  uint64_t value = 0;
  for (size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<uint8_t>(data[at + i]);
  return value;
}

uint64_t size_of(const std::string& dtype) {
  for (const char* known : {"f4", "f8", "i1", "u1", "b1", "i2", "u2", "i4", "u4", "i8", "u8"})
    if (dtype == known) return static_cast<uint64_t>(known[1] - '0');
  bool plain = std::all_of(dtype.begin(), dtype.end(), [](unsigned char c) { return std::isalnum(c) != 0; });
  refuse("holds numbers of " + (plain ? "type " + dtype.substr(0, 20) : "another type") + ": save them as float32");
}

// What follows a key in the header of a .npy file, a Python dictionary that numpy writes in one way.
std::string value_of(const std::string& header, const std::string& key) {
  size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) refuse("damaged: its header has no " + key);
  at = header.find_first_not_of(' ', at + key.size() + 3);
  return at == std::string::npos ? "" : header.substr(at);
}

std::vector<int64_t> shape_of(const std::string& text) {
  std::vector<int64_t> shape;
  size_t end = text.find(')');
  if (text.empty() || text[0] != '(' || end == std::string::npos) refuse("damaged: its header has no shape");
  for (size_t at = 1; at < end;) {
    size_t stop = std::min(text.find(',', at), end);
    std::string word = text.substr(at, stop - at);
    word.erase(0, word.find_first_not_of(' '));
    if (!word.empty()) {
      if (word.size() > 10 || word.find_first_not_of("0123456789") != std::string::npos || shape.size() == kMostDims)
        refuse("damaged: its header has no shape");
      shape.push_back(std::stoll(word));
    }
    at = stop + 1;
  }
  return shape;
}

Array array_in(const std::vector<char>& file) {
  if (file.size() < 10 || std::memcmp(file.data(), "\x93NUMPY", 6) != 0) refuse("no array of numpy's");
  size_t wide = file[6] == 1 ? 2 : 4, start = 8 + wide;
  uint64_t length = number(file, 8, wide);
  if (length > kMostHeader || length > file.size() - start) refuse("damaged: it ends early");
  std::string header(file.data() + start, length), descr = value_of(header, "descr");
  size_t quote = descr.find('\'', 1);
  if (descr.size() < 4 || descr[0] != '\'' || quote == std::string::npos) refuse("holds no plain numbers");
  if (descr[1] == '>') refuse("holds big-endian numbers: save them as float32");
  Array array;
  array.dtype = descr.substr(2, quote - 2);
  array.shape = shape_of(value_of(header, "shape"));
  uint64_t bytes = size_of(array.dtype);
  for (int64_t dim : array.shape) {
    if (dim != 0 && bytes > kMostFile / static_cast<uint64_t>(dim)) refuse("damaged: its shape is larger than the file");
    bytes *= static_cast<uint64_t>(dim);
  }
  if (value_of(header, "fortran_order")[0] != 'F' && array.shape.size() > 1)
    refuse("is stored column by column: save numpy.ascontiguousarray of it");
  start += length;
  if (bytes != file.size() - start) refuse("damaged: its shape and its size differ");
  array.data.assign(file.begin() + static_cast<std::ptrdiff_t>(start), file.end());
  return array;
}

// A number as float32, or as an integer that it equals; false if that can't be.
template <typename To>
bool put(double value, char* to) {
  if (std::numeric_limits<To>::is_integer) {
    double low = static_cast<double>(std::numeric_limits<To>::lowest());
    double end = 2 * static_cast<double>(std::numeric_limits<To>::max() / 2 + 1);  // exact, unlike the largest one
    if (!(value >= low && value < end && value == std::floor(value))) return false;
  } else if (!std::isfinite(static_cast<To>(value))) {
    return false;
  }
  To converted = static_cast<To>(value);
  std::memcpy(to, &converted, sizeof(To));
  return true;
}

template <typename From>
double value_at(const std::vector<char>& data, size_t index) {
  From value;
  std::memcpy(&value, data.data() + index * sizeof(From), sizeof(From));
  return static_cast<double>(value);
}

double value_at(const Array& array, size_t index) {
  const std::string& type = array.dtype;
  if (type == "f4") return value_at<float>(array.data, index);
  if (type == "f8") return value_at<double>(array.data, index);
  if (type == "i1") return value_at<int8_t>(array.data, index);
  if (type == "i2") return value_at<int16_t>(array.data, index);
  if (type == "u2") return value_at<uint16_t>(array.data, index);
  if (type == "i4") return value_at<int32_t>(array.data, index);
  if (type == "u4") return value_at<uint32_t>(array.data, index);
  if (type == "i8") return value_at<int64_t>(array.data, index);
  if (type == "u8") return static_cast<double>(value_at<uint64_t>(array.data, index));
  return value_at<uint8_t>(array.data, index);
}

std::string short_name(const std::string& dtype) {
  if (dtype == "bool") return "b1";
  size_t digits = dtype.find_first_of("0123456789");
  return digits == std::string::npos ? dtype : dtype.substr(0, 1) + std::to_string(std::stoi(dtype.substr(digits)) / 8);
}

std::string listed(const std::vector<int64_t>& shape) {
  std::string text;
  for (int64_t dim : shape) text += (text.empty() ? "" : ", ") + std::to_string(dim);
  return "[" + text + "]";
}

// The array's numbers in the network's type: the same ones, in another width or as whole floats.
std::vector<char> converted(const Array& array, const std::string& dtype) {
  std::string wanted = short_name(dtype);
  bool real = array.dtype[0] == 'f';
  if (wanted == array.dtype && !real) return array.data;
  bool indices = wanted == "i4" || wanted == "i8" || wanted == "u4" || wanted == "u8";
  bool reals = wanted == "f4" || wanted == "f8";
  if ((!reals || !real) && (!indices || array.dtype == "b1"))
    refuse("holds " + array.dtype + ", and the network takes " + dtype + ": convert it as in training");
  size_t count = array.data.size() / size_of(array.dtype), width = size_of(wanted);
  std::vector<char> data(count * width);
  for (size_t i = 0; i < count; ++i) {
    double value = value_at(array, i);
    char* to = data.data() + i * width;
    bool fits = wanted == "f4"   ? put<float>(value, to)
                : wanted == "f8" ? put<double>(value, to)
                : wanted == "i4" ? put<int32_t>(value, to)
                : wanted == "i8" ? put<int64_t>(value, to)
                : wanted == "u4" ? put<uint32_t>(value, to)
                                 : put<uint64_t>(value, to);
    if (!fits) refuse(reals ? "holds NaN or infinite values" : "holds numbers that are no indices");
  }
  return data;
}

}  // namespace

Array read_npy(const std::string& path) { return array_in(content_of(path)); }

Array read_raw(const std::string& path) {
  Array array{"f4", {}, content_of(path)};
  if (array.data.empty() || array.data.size() % sizeof(float) != 0) refuse("holds no float32 values");
  array.shape = {static_cast<int64_t>(array.data.size() / sizeof(float))};
  return array;
}

// A zip file as numpy.savez and savez_compressed write it: its directory at the end says where each member lies.
std::map<std::string, Array> read_npz(const std::string& path) {
  std::vector<char> file = content_of(path);
  size_t end = file.size() < 22 ? 0 : file.size() - 22;
  while (end > 0 && (number(file, end, 4) != 0x06054B50 || number(file, end + 20, 2) != file.size() - end - 22)) --end;
  if (file.size() < 22 || number(file, end, 4) != 0x06054B50) refuse("no .npz file, or truncated: write it with numpy.savez");
  size_t count = number(file, end + 10, 2), at = number(file, end + 16, 4);
  std::map<std::string, Array> found;
  uint64_t left = kMostFile;
  for (size_t i = 0; i < count && i < kMostMembers; ++i) {
    if (number(file, at, 4) != 0x02014B50) refuse("damaged: its directory");
    uint64_t method = number(file, at + 10, 2), packed = number(file, at + 20, 4), bytes = number(file, at + 24, 4);
    size_t name_size = number(file, at + 28, 2), more = number(file, at + 30, 2) + number(file, at + 32, 2);
    size_t place = number(file, at + 42, 4);
    number(file, at + 46, 0);
    if (name_size > file.size() - at - 46) refuse("damaged: its directory");
    std::string name(file.data() + at + 46, name_size);
    at += 46 + name_size + more;
    if (name.size() < 4 || name.substr(name.size() - 4) != ".npy") refuse("holds something that is no array");
    if ((method != 0 && method != 8) || number(file, place, 4) != 0x04034B50) refuse("damaged, or not written by numpy.savez");
    size_t start = place + 30 + number(file, place + 26, 2) + number(file, place + 28, 2);
    if (start > file.size() || packed > file.size() - start || bytes > left) refuse("damaged: it ends early");
    left -= bytes;
    auto from = file.begin() + static_cast<std::ptrdiff_t>(start);
    std::vector<char> content(from, from + static_cast<std::ptrdiff_t>(packed));
    found[name.substr(0, name.size() - 4)] = array_in(method == 8 ? inflated(content, bytes) : content);
  }
  if (found.empty()) refuse("holds no array");
  return found;
}

std::vector<std::vector<char>> batches_of(const Array& array, const std::vector<int64_t>& shape, const std::string& dtype) {
  std::vector<int64_t> row(shape.begin() + (shape.empty() ? 0 : 1), shape.end());
  std::vector<int64_t> rest(array.shape.begin() + (array.shape.empty() ? 0 : 1), array.shape.end());
  uint64_t row_bytes = size_of(array.dtype);
  for (int64_t dim : row) row_bytes *= static_cast<uint64_t>(dim);
  bool flat = array.shape.size() == 1 && row_bytes > 0 && array.data.size() % row_bytes == 0;
  if (row_bytes == 0 || array.data.empty() || (rest != row && array.shape != row && !flat))
    refuse("has shape " + listed(array.shape) + ", and the network takes " + listed(shape));
  size_t batch = shape.empty() ? 1 : static_cast<size_t>(shape[0]), samples = array.data.size() / row_bytes;
  if (batch == 0 || samples % batch != 0)
    refuse("holds " + std::to_string(samples) + " samples, and the network takes " + std::to_string(batch) + " at a time");
  std::vector<char> data = converted(array, dtype);
  size_t bytes = data.size() / (samples / batch);
  std::vector<std::vector<char>> batches;
  for (size_t at = 0; at < data.size(); at += bytes)
    batches.emplace_back(data.begin() + static_cast<std::ptrdiff_t>(at), data.begin() + static_cast<std::ptrdiff_t>(at + bytes));
  return batches;
}

}  // namespace drpai_qat
