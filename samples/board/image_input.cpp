// Implements image_input.h.
#include "image_input.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "scaling.h"

namespace drpai_qat {
namespace {

constexpr int64_t kMostSide = 65535;

bool is_channels(int64_t count) { return count == 1 || count == 3 || count == 4; }

std::string one_of(const Value& value, const std::vector<std::string>& choices) {
  std::string found = value.text(), all;
  for (const std::string& choice : choices) {
    if (found == choice) return found;
    all += (all.empty() ? "" : ", ") + choice;
  }
  value.wrong("one of " + all);
}

std::vector<double> numbers(const Value& value) {
  std::vector<double> found;
  if (!value.is_list()) return {value.number()};
  for (const Value& one : value.items(4)) found.push_back(one.number());
  if (found.size() != 1 && !is_channels(static_cast<int64_t>(found.size()))) value.wrong("1, 3 or 4 numbers");
  return found;
}

// One number for each channel; a grey image has the mean of its colours.
std::vector<double> spread(const std::vector<double>& found, int64_t channels) {
  size_t count = static_cast<size_t>(channels);
  if (found.size() == count) return found;
  if (found.size() == 1) return std::vector<double>(count, found[0]);
  if (count != 1) throw std::runtime_error("deploy.json: preprocessing has mean or std for another number of channels");
  double sum = 0.0;
  for (double one : found) sum += one;
  return {sum / static_cast<double>(found.size())};
}

// The same image in 1, 3 or 4 channels: alpha is dropped, or full; grey as ITU-R 601 weighs the colours.
Image with_channels(const Image& image, int64_t channels) {
  if (image.channels == channels) return image;
  Image changed{image.height, image.width, channels, {}};
  changed.pixels.reserve(static_cast<size_t>(image.height * image.width * channels));
  for (size_t at = 0; at < image.pixels.size(); at += static_cast<size_t>(image.channels)) {
    uint8_t red = image.pixels[at], green = image.channels == 1 ? red : image.pixels[at + 1];
    uint8_t blue = image.channels == 1 ? red : image.pixels[at + 2];
    if (channels == 1) {
      changed.pixels.push_back(static_cast<uint8_t>((19595u * red + 38470u * green + 7471u * blue + 0x8000u) >> 16));
    } else {
      changed.pixels.insert(changed.pixels.end(), {red, green, blue});
      if (channels == 4) changed.pixels.push_back(255);
    }
  }
  return changed;
}

struct Overlap {
  int64_t from, to, count;
};

// Where `have` pixels in the middle of `want` come from and go to; odd rests as torchvision and YOLO round them.
Overlap overlap(int64_t have, int64_t want) {
  double rest = static_cast<double>(std::abs(have - want)) / 2;
  if (have >= want) return {static_cast<int64_t>(std::nearbyint(rest)), 0, want};
  return {0, static_cast<int64_t>(std::nearbyint(rest - 0.1)), have};
}

}  // namespace

ImageInput::ImageInput(const Value& recorded, const Description& input) : input_(input) {
  read(recorded);
  if (recorded.has("input") && recorded.at("input").text() != input_.name)
    throw std::runtime_error("deploy.json records how images become input " + recorded.at("input").text() + ", not " +
                             input_.name);
  fit(input_.shape);
  std::vector<double> means = spread(mean_, channels_), stds = spread(std_, channels_);
  table_.resize(static_cast<size_t>(channels_));
  for (size_t c = 0; c < table_.size(); ++c)
    for (size_t pixel = 0; pixel < 256; ++pixel) {
      double product = static_cast<double>(pixel) * scale_;
      double value = (product - means[c]) / stds[c];
      table_[c][pixel] = static_cast<float>(value);
      if (!std::isfinite(table_[c][pixel])) throw std::runtime_error("deploy.json: preprocessing gives infinite values");
    }
  if (input_.dtype == "float32" || input_.grid.scale != 0) return;
  for (const std::array<float, 256>& one : table_) {  // integers that stand for themselves
    std::vector<char> values(sizeof(one));
    std::memcpy(values.data(), one.data(), sizeof(one));
    if (to_reals(from_reals(values, input_.dtype, input_.grid), input_.dtype, input_.grid) != values)
      throw std::runtime_error("input " + input_.name + " is " + input_.dtype + ", and deploy.json records preprocessing to reals: "
                               "compile it with --preprocess none");
  }
}

void ImageInput::read(const Value& recorded) {
  for (const std::string& key : recorded.keys()) {
    Value value = recorded.at(key.c_str());
    if (key == "resize") resize_ = one_of(value, {"stretch", "crop", "letterbox", "center"});
    else if (key == "interpolation") interpolation_ = one_of(value, {"bilinear", "nearest", "bicubic", "area"});
    else if (key == "color") color_ = one_of(value, {"rgb", "bgr"});
    else if (key == "layout") layout_ = one_of(value, {"auto", "nchw", "nhwc"});
    else if (key == "crop") crop_ = value.number();
    else if (key == "scale") scale_ = value.number();
    else if (key == "mean") mean_ = numbers(value);
    else if (key == "std") std_ = numbers(value);
    else if (key == "pad") pad_ = static_cast<uint8_t>(value.whole(0, 255));
    else if (key == "size" && !value.is_null()) {
      std::vector<Value> sides = value.items(2);
      if (sides.size() != 2) value.wrong("height and width");
      height_ = sides[0].whole(1, kMostSide);
      width_ = sides[1].whole(1, kMostSide);
    } else if (key != "size" && key != "input" && key != "channels")
      value.wrong("known here: the runner is older than the network");
  }
  if (!(crop_ > 0 && crop_ <= 1)) recorded.at("crop").wrong("a number above 0 and at most 1");
  if (scale_ == 0) recorded.at("scale").wrong("a number other than 0");
  if (std::count(std_.begin(), std_.end(), 0.0) != 0) recorded.at("std").wrong("without 0");
}

// Channels, height, width and layout, from the input's shape; `size` counts for inputs that are vectors of pixels.
void ImageInput::fit(const std::vector<int64_t>& shape) {
  size_t rank = shape.size();
  bool known = false;
  if (rank == 4 && is_channels(shape[1]) && layout_ != "nhwc") {
    channels_ = shape[1], height_ = shape[2], width_ = shape[3], layout_ = "nchw", known = true;
  } else if (rank == 4 && is_channels(shape[3]) && layout_ != "nchw") {
    channels_ = shape[3], height_ = shape[1], width_ = shape[2], layout_ = "nhwc", known = true;
  } else if (rank == 3 && shape[1] > 1 && shape[2] > 1) {
    channels_ = 1, height_ = shape[1], width_ = shape[2], layout_ = "nhwc", known = true;
  } else if (rank == 2 && height_ > 0 && shape[1] % (height_ * width_) == 0) {
    channels_ = shape[1] / (height_ * width_);
    known = is_channels(channels_);
  }
  if (!known || height_ < 1 || width_ < 1 || height_ > kMostSide || width_ > kMostSide || shape[0] < 1)
    throw std::runtime_error("input " + input_.name + " is no image of 1, 3 or 4 channels");
  batch_ = shape[0];
}

Image ImageInput::placed(const Image& image) const {
  Part rows{height_, 0, height_}, columns{width_, 0, width_};
  if (resize_ == "stretch") return scaled(image, rows, columns, interpolation_);
  double high = static_cast<double>(image.height), wide = static_cast<double>(image.width);
  double whole_high = high, whole_wide = wide;
  if (resize_ == "crop") {
    // The shorter side, measured by the input's, becomes 1/crop times that; the longer one is rounded down.
    double scale = std::max(std::nearbyint(static_cast<double>(height_) / crop_) / high,
                            std::nearbyint(static_cast<double>(width_) / crop_) / wide);
    whole_high = std::max(std::floor(high * scale + 1e-6), 1.0);
    whole_wide = std::max(std::floor(wide * scale + 1e-6), 1.0);
  } else if (resize_ == "letterbox") {
    double scale = std::min(static_cast<double>(height_) / high, static_cast<double>(width_) / wide);
    whole_high = std::min(std::max(std::nearbyint(high * scale), 1.0), static_cast<double>(height_));
    whole_wide = std::min(std::max(std::nearbyint(wide * scale), 1.0), static_cast<double>(width_));
  }
  if (!(whole_high * whole_wide <= static_cast<double>(kMostPixels)))
    throw std::runtime_error("the image would have more than " + std::to_string(kMostPixels) + " pixels when it is scaled");
  Overlap down = overlap(static_cast<int64_t>(whole_high), height_);
  Overlap across = overlap(static_cast<int64_t>(whole_wide), width_);
  Image inside = scaled(image, {static_cast<int64_t>(whole_high), down.from, down.count},
                        {static_cast<int64_t>(whole_wide), across.from, across.count}, interpolation_);
  Image ground{height_, width_, channels_, {}};
  ground.pixels.assign(static_cast<size_t>(height_ * width_ * channels_), pad_);
  for (int64_t y = 0; y < down.count; ++y)
    std::copy_n(inside.pixels.data() + y * across.count * channels_, across.count * channels_,
                ground.pixels.data() + ((y + down.to) * width_ + across.to) * channels_);
  return ground;
}

std::vector<char> ImageInput::prepared(const Image& image) const {
  if (!is_channels(image.channels) || image.height < 1 || image.width < 1 || image.height > kMostSide ||
      image.width > kMostSide || image.height * image.width > kMostPixels ||
      image.pixels.size() != static_cast<size_t>(image.height * image.width * image.channels))
    throw std::runtime_error("an image has 1, 3 or 4 channels, and at most " + std::to_string(kMostSide) + " pixels a side");
  Image placed = this->placed(with_channels(image, channels_));
  int64_t plane = height_ * width_, count = plane * channels_;
  std::vector<float> values(static_cast<size_t>(count));
  bool swap = color_ == "bgr" && channels_ > 1;
  for (int64_t c = 0; c < channels_; ++c) {
    const std::array<float, 256>& table = table_[static_cast<size_t>(c)];
    int64_t from = swap && c < 3 ? 2 - c : c;
    for (int64_t at = 0; at < plane; ++at)
      values[static_cast<size_t>(layout_ == "nhwc" ? at * channels_ + c : c * plane + at)] =
          table[placed.pixels[static_cast<size_t>(at * channels_ + from)]];
  }
  std::vector<char> reals(values.size() * sizeof(float));
  std::memcpy(reals.data(), values.data(), reals.size());
  std::vector<char> one = from_reals(reals, input_.dtype, input_.grid), whole;
  for (int64_t k = 0; k < batch_; ++k) whole.insert(whole.end(), one.begin(), one.end());
  return whole;
}

}  // namespace drpai_qat
