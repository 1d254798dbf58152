/*
 * Reads the files of a deployed folder, which may be damaged or come from anywhere: nothing is believed before it was
 * looked at, nothing larger than the file that says so is allocated, and every failure is a std::runtime_error.
 */
#ifndef DRPAI_QAT_FOLDER_H
#define DRPAI_QAT_FOLDER_H

#include <tvm/ffi/any.h>
#include <tvm/ffi/container/tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "numbers.h"

namespace drpai_qat {

/* A regular file, opened once: what is hashed is what is used. */
class File {
 public:
  explicit File(const std::string& path, const std::string& advice = "copy the whole folder");
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int number() const { return number_; }
  uint64_t left() const { return left_; }
  void read(void* data, uint64_t bytes);
  template <typename T>
  T number_of() {
    T value;
    read(&value, sizeof(value));
    return value;
  }
  std::string text(uint64_t bytes);
  /* Compare with a SHA-256 in hexadecimal; it stands at its beginning again. */
  void check_hash(const std::string& expected);
  [[noreturn]] void damaged(const std::string& why) const;

 private:
  std::string path_;
  int number_;
  uint64_t size_, left_;
};

/* A value of deploy.json and the way to it, for messages. */
class Value {
 public:
  Value(tvm::ffi::Any content, std::string where) : content_(std::move(content)), where_(std::move(where)) {}
  Value at(const char* key) const;
  bool has(const char* key) const;
  std::vector<std::string> keys() const;
  bool is_null() const;
  bool is_list() const;
  std::vector<Value> items(size_t most) const;
  std::string text() const;
  int64_t whole(int64_t low, int64_t high) const;
  double number() const;
  [[noreturn]] void wrong(const std::string& wanted) const;

 private:
  tvm::ffi::Any content_;
  std::string where_;
};

Value read_json(const std::string& path);

/* An input or an output. */
struct Description {
  std::string name, dtype;
  DLDataType type;
  std::vector<int64_t> shape;
  uint64_t bytes;
  Grid grid;  // of integers
};

/* Inputs or outputs; `left` bounds their bytes and is lowered by them. */
std::vector<Description> read_descriptions(const Value& list, uint64_t* left);

/* Aligned memory for a tensor of a shape that was looked at. */
tvm::ffi::Tensor new_tensor(const std::vector<int64_t>& shape, DLDataType type);

/* The tensors of deploy.params, by name, in the order of names. */
std::vector<tvm::ffi::Tensor> read_parameters(File* file);

}  // namespace drpai_qat

#endif
