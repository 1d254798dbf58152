/*
 * From an image to a network's input, as deploy.json records it (`preprocessing`), with the numbers of the Python side
 * (drpai_qat/data/preprocessing.py): scaled with the integer arithmetic of Pillow, one rounding to float32 at the end.
 */
#ifndef DRPAI_QAT_IMAGE_INPUT_H
#define DRPAI_QAT_IMAGE_INPUT_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "folder.h"

namespace drpai_qat {

/* Rows of pixels, the channels of each side by side: grey, RGB or RGBA. */
struct Image {
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> pixels;
};

constexpr int64_t kMostPixels = 178956970;  // of an image, read or scaled; Pillow's own limit

class ImageInput {
 public:
  /* `recorded`: `preprocessing` of deploy.json; the input must be the one that it names. */
  ImageInput(const Value& recorded, const Description& input);

  /* One image as the whole batch, in the input's type: places on its grid where it has one. */
  std::vector<char> prepared(const Image& image) const;

 private:
  void read(const Value& recorded);
  void fit(const std::vector<int64_t>& shape);
  Image placed(const Image& image) const;

  Description input_;
  std::string resize_ = "stretch", interpolation_ = "bilinear", color_ = "rgb", layout_ = "auto";
  double crop_ = 0.875, scale_ = 1.0 / 255;
  std::vector<double> mean_{0.0}, std_{1.0};
  uint8_t pad_ = 114;
  int64_t batch_ = 0, channels_ = 0, height_ = 0, width_ = 0;  // height and width are 0 where `size` is not recorded
  std::vector<std::array<float, 256>> table_;                  // of each channel, the value of each pixel value
};

}  // namespace drpai_qat

#endif
