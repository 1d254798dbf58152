// Implements given_files.h.
#include "given_files.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "array_file.h"
#include "image_file.h"

namespace drpai_qat {
namespace {

std::string ending(const std::string& path) {
  size_t dot = path.find_last_of("./");
  return dot == std::string::npos || path[dot] == '/' ? "" : path.substr(dot);
}

std::string base(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

// Files hold reals where the network takes integers of a grid.
std::vector<Values> batches(const Array& array, const drpai_qat_tensor* input) {
  bool reals = input->scale != 0;
  std::vector<Values> found =
      batches_of(array, {input->shape, input->shape + input->ndim}, reals ? "float32" : input->dtype);
  if (reals)
    for (Values& one : found) one = from_reals(one, input->dtype, grid_of(input));
  return found;
}

// The samples of one file for each input; `inputs[i]` are those of input i.
std::vector<Sample> together(const std::string& name, const std::vector<std::vector<Values>>& inputs) {
  std::vector<Sample> samples(inputs[0].size());
  for (size_t k = 0; k < samples.size(); ++k) {
    samples[k].name = samples.size() == 1 ? name : name + " " + std::to_string(k);
    for (const std::vector<Values>& each : inputs) {
      if (each.size() != samples.size()) throw std::runtime_error("holds another number of samples for each input");
      samples[k].inputs.push_back(each[k]);
    }
  }
  return samples;
}

std::vector<Sample> samples_in(const std::string& path, const std::vector<const drpai_qat_tensor*>& inputs) {
  if (ending(path) == ".npz") {
    std::map<std::string, Array> arrays = read_npz(path);
    std::vector<std::vector<Values>> found;
    for (const drpai_qat_tensor* input : inputs) {
      auto one = inputs.size() == 1 && arrays.size() == 1 ? arrays.begin() : arrays.find(input->name);
      if (one == arrays.end()) throw std::runtime_error(std::string("has no array ") + input->name);
      found.push_back(batches(one->second, input));
    }
    return together(base(path), found);
  }
  if (ending(path) == ".npy") return together(base(path), {batches(read_npy(path), inputs[0])});
  if (ending(path) == ".bin") return together(base(path), {batches(read_raw(path), inputs[0])});
  return {{base(path), {}, read_image(path)}};
}

}  // namespace

std::vector<Sample> read_samples(const std::vector<std::string>& files, const std::vector<const drpai_qat_tensor*>& inputs) {
  std::vector<Sample> samples;
  bool archive = std::any_of(files.begin(), files.end(), [](const std::string& one) { return ending(one) == ".npz"; });
  if (inputs.empty()) throw std::runtime_error("the network takes no input");
  if (inputs.size() > 1 && !archive && files.size() != inputs.size())
    throw std::runtime_error("-i: give a file for each of the " + std::to_string(inputs.size()) + " inputs, or a .npz file");
  std::string names;
  std::vector<std::vector<Values>> each;
  for (size_t i = 0; i < files.size(); ++i) {
    try {
      if (inputs.size() == 1 || archive) {
        for (Sample& one : samples_in(files[i], inputs)) samples.push_back(std::move(one));
        continue;
      }
      each.emplace_back();
      for (Sample& one : samples_in(files[i], {inputs[i]})) {
        if (one.inputs.empty()) throw std::runtime_error("an image is for networks with one input: give arrays");
        each.back().push_back(std::move(one.inputs[0]));
      }
      names += (names.empty() ? "" : ", ") + base(files[i]);
    } catch (const std::exception& error) {
      std::string why = error.what();
      throw std::runtime_error(why.compare(0, files[i].size(), files[i]) == 0 ? why : "-i " + files[i] + " " + why);
    }
  }
  return each.empty() ? samples : together(names, each);
}

}  // namespace drpai_qat
