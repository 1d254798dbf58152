/* Files of the user's as inputs of a network: images, .npz, .npy, raw float32. */
#ifndef DRPAI_QAT_GIVEN_FILES_H
#define DRPAI_QAT_GIVEN_FILES_H

#include <string>
#include <vector>

#include "drpai_qat.h"
#include "image_input.h"
#include "numbers.h"

namespace drpai_qat {

/* Values of an input or output, in the network's type. */
using Values = std::vector<char>;

/* What one run takes: values of each input, or an image, which is prepared as it is set. */
struct Sample {
  std::string name;
  std::vector<Values> inputs;
  Image image;
};

/* The grid of an input or output. */
inline Grid grid_of(const drpai_qat_tensor* tensor) {
  return {tensor->scale, tensor->zero_point, tensor->qmin, tensor->qmax};
}

/* The samples of all files: of a network with several inputs a .npz, or a file for each in their order. Raises
   std::runtime_error, with the file's name. */
std::vector<Sample> read_samples(const std::vector<std::string>& files, const std::vector<const drpai_qat_tensor*>& inputs);

}  // namespace drpai_qat

#endif
