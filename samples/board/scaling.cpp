// Implements scaling.h.
//
// A result is a weighted mean of the pixels around its own place: those within the filter's reach, which grows with the
// scale where the image becomes smaller. Weights are integers of 22 bits after the point; first along the rows, then
// along the columns, with a rounding to 8 bits after each. Every product here is rounded by itself: compile with
// -ffp-contract=off where the compiler would fuse them.
#include "scaling.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace drpai_qat {
namespace {

constexpr int kBits = 22;

struct Filter {
  double reach;
  double (*weight)(double distance);
};

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double triangle(double x) { return std::max(1.0 - std::fabs(x), 0.0); }

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

Filter filter_of(const std::string& interpolation) {
  if (interpolation == "bicubic") return {2.0, cubic};
  if (interpolation == "area") return {0.5, box};
  return {1.0, triangle};
}

// The pixels that a result is made of, and how much each counts.
struct Taps {
  int64_t first = 0;
  std::vector<int32_t> weights;
};

std::vector<Taps> taps_of(int64_t size, Part part, const Filter& filter) {
  double scale = static_cast<double>(size) / static_cast<double>(part.whole), wide = std::max(scale, 1.0);
  double reach = filter.reach * wide, step = 1.0 / wide;
  std::vector<Taps> all(static_cast<size_t>(part.count));
  std::vector<double> weights;
  for (int64_t i = 0; i < part.count; ++i) {
    double center = (static_cast<double>(part.first + i) + 0.5) * scale;
    int64_t first = std::max<int64_t>(static_cast<int64_t>(center - reach + 0.5), 0);
    int64_t end = std::min(static_cast<int64_t>(center + reach + 0.5), size);
    weights.clear();
    double sum = 0.0;
    for (int64_t at = first; at < end; ++at) {
      weights.push_back(filter.weight((static_cast<double>(at) - center + 0.5) * step));
      sum += weights.back();
    }
    Taps& taps = all[static_cast<size_t>(i)];
    taps.first = first;
    for (double weight : weights) {
      double exact = (sum != 0.0 ? weight / sum : weight) * (1 << kBits);
      taps.weights.push_back(static_cast<int32_t>(exact < 0.0 ? exact - 0.5 : exact + 0.5));
    }
  }
  return all;
}

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255)); }

// The mean of pixels that lie `stride` bytes apart.
uint8_t mean(const uint8_t* pixels, int64_t stride, const Taps& taps) {
  int32_t sum = 1 << (kBits - 1);
  const uint8_t* next = pixels + taps.first * stride;
  for (int32_t weight : taps.weights) {
    sum += weight * *next;
    next += stride;
  }
  return rounded(sum);
}

Image along_rows(const Image& from, Part part, const Filter& filter) {
  Image to{from.height, part.count, from.channels, {}};
  to.pixels.resize(static_cast<size_t>(to.height * to.width * to.channels));
  std::vector<Taps> taps = taps_of(from.width, part, filter);
  uint8_t* out = to.pixels.data();
  for (int64_t y = 0; y < to.height; ++y)
    for (const Taps& one : taps)
      for (int64_t c = 0; c < to.channels; ++c)
        *out++ = mean(from.pixels.data() + y * from.width * from.channels + c, from.channels, one);
  return to;
}

Image along_columns(const Image& from, Part part, const Filter& filter) {
  Image to{part.count, from.width, from.channels, {}};
  int64_t row = to.width * to.channels;
  to.pixels.resize(static_cast<size_t>(to.height * row));
  uint8_t* out = to.pixels.data();
  std::vector<int32_t> sums(static_cast<size_t>(row));
  for (const Taps& one : taps_of(from.height, part, filter)) {
    std::fill(sums.begin(), sums.end(), 1 << (kBits - 1));
    const uint8_t* next = from.pixels.data() + one.first * row;
    for (int32_t weight : one.weights)
      for (int64_t x = 0; x < row; ++x) sums[static_cast<size_t>(x)] += weight * *next++;
    for (int32_t sum : sums) *out++ = rounded(sum);
  }
  return to;
}

// Where each result is taken from. Places are added up one by one, as Pillow does: products would round elsewhere.
std::vector<int64_t> nearest_of(int64_t size, Part part) {
  double step = static_cast<double>(size) / static_cast<double>(part.whole), place = step * 0.5;
  std::vector<int64_t> all;
  for (int64_t i = 0; i < part.first + part.count; ++i, place += step)
    if (i >= part.first) all.push_back(std::min(static_cast<int64_t>(place), size - 1));
  return all;
}

Image nearest(const Image& from, Part rows, Part columns) {
  Image to{rows.count, columns.count, from.channels, {}};
  to.pixels.reserve(static_cast<size_t>(to.height * to.width * to.channels));
  std::vector<int64_t> ys = nearest_of(from.height, rows), xs = nearest_of(from.width, columns);
  for (int64_t y : ys)
    for (int64_t x : xs) {
      const uint8_t* pixel = from.pixels.data() + (y * from.width + x) * from.channels;
      to.pixels.insert(to.pixels.end(), pixel, pixel + from.channels);
    }
  return to;
}

}  // namespace

Image scaled(const Image& image, Part rows, Part columns, const std::string& interpolation) {
  bool same = rows.whole == image.height && columns.whole == image.width;
  if (same || interpolation == "nearest") return nearest(image, rows, columns);
  Filter filter = filter_of(interpolation);
  // A side that keeps its length is not filtered, only cut.
  Image cut = columns.whole == image.width ? nearest(image, {image.height, 0, image.height}, columns)
                                           : along_rows(image, columns, filter);
  return rows.whole == image.height ? nearest(cut, rows, {cut.width, 0, cut.width}) : along_columns(cut, rows, filter);
}

}  // namespace drpai_qat
