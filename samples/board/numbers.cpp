// Implements numbers.h.
#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>

namespace drpai_qat {
namespace {

// A number as another type has it: its nearest end where it lies outside, 0 if it is not a number.
template <typename To, typename From>
To limited(From value) {
  if (value != value) return 0;
  double wide = static_cast<double>(value), low = static_cast<double>(std::numeric_limits<To>::lowest());
  if (wide <= low) return std::numeric_limits<To>::lowest();
  if (wide >= static_cast<double>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
  return static_cast<To>(value);
}

template <typename T>
std::vector<char> from_float(const std::vector<char>& reals, const Grid& grid) {
  size_t count = reals.size() / sizeof(float);
  std::vector<char> result(count * sizeof(T));
  for (size_t i = 0; i < count; ++i) {
    float real;
    std::memcpy(&real, reals.data() + i * sizeof(float), sizeof(float));
    T value = limited<T>(real);
    if (grid.scale != 0) {
      double place = static_cast<double>(std::nearbyint(real / grid.scale)) + grid.zero_point;
      value = limited<T>(std::clamp<double>(place, grid.low, grid.high));
    }
    std::memcpy(result.data() + i * sizeof(T), &value, sizeof(T));
  }
  return result;
}

template <typename T>
std::vector<char> to_float(const std::vector<char>& data, const Grid& grid) {
  size_t count = data.size() / sizeof(T);
  std::vector<char> result(count * sizeof(float));
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    float real = grid.scale == 0 ? static_cast<float>(value)
                                 : static_cast<float>(static_cast<int64_t>(value) - grid.zero_point) * grid.scale;
    std::memcpy(result.data() + i * sizeof(float), &real, sizeof(float));
  }
  return result;
}

using Conversion = std::vector<char> (*)(const std::vector<char>&, const Grid&);

struct Conversions {
  Conversion from, to;
};

template <typename T>
Conversions both() {
  return {from_float<T>, to_float<T>};
}

Conversions conversions(const std::string& dtype) {
  static const std::map<std::string, Conversions> known = {
      {"int8", both<int8_t>()},     {"uint8", both<uint8_t>()},   {"int16", both<int16_t>()},
      {"uint16", both<uint16_t>()}, {"int32", both<int32_t>()},   {"uint32", both<uint32_t>()},
      {"int64", both<int64_t>()},   {"uint64", both<uint64_t>()}, {"float64", both<double>()},
      {"bool", both<uint8_t>()}};
  auto found = known.find(dtype);
  if (found == known.end()) throw std::runtime_error(dtype + " can't be written from float32 here: use drpai_qat_set_input");
  return found->second;
}

}  // namespace

std::vector<char> from_reals(const std::vector<char>& reals, const std::string& dtype, const Grid& grid) {
  return dtype == "float32" ? reals : conversions(dtype).from(reals, grid);
}

std::vector<char> to_reals(const std::vector<char>& data, const std::string& dtype, const Grid& grid) {
  return dtype == "float32" ? data : conversions(dtype).to(data, grid);
}

}  // namespace drpai_qat
