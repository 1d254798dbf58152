/* Reads .npy, .npz and raw float32 files as inputs of a network; every failure is a std::runtime_error. */
#ifndef DRPAI_QAT_ARRAY_FILE_H
#define DRPAI_QAT_ARRAY_FILE_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace drpai_qat {

/* `dtype` as numpy names it, without the order of bytes: f4, i8. */
struct Array {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> data;
};

Array read_npy(const std::string& path);

/* Arrays by name. */
std::map<std::string, Array> read_npz(const std::string& path);

/* Raw float32. */
Array read_raw(const std::string& path);

/* The batches in an array, each `bytes` of the network's type; its shape is the network's, with or without the batch,
   or with another number of samples. `dtype`: as deploy.json names it. */
std::vector<std::vector<char>> batches_of(const Array& array, const std::vector<int64_t>& shape, const std::string& dtype);

}  // namespace drpai_qat

#endif
