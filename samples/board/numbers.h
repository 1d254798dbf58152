/* Numbers as people have them, and as a network's inputs and outputs hold them. */
#ifndef DRPAI_QAT_NUMBERS_H
#define DRPAI_QAT_NUMBERS_H

#include <cstdint>
#include <string>
#include <vector>

namespace drpai_qat {

/* Integers q of low..high stand for the reals scale * (q - zero_point); scale 0: for themselves. */
struct Grid {
  float scale = 0;
  int32_t zero_point = 0, low = 0, high = 0;
};

/* From float32 to a network's type: places on the grid, or the same numbers, the nearest where one lies outside. */
std::vector<char> from_reals(const std::vector<char>& reals, const std::string& dtype, const Grid& grid);

/* From a network's type to float32. */
std::vector<char> to_reals(const std::vector<char>& data, const std::string& dtype, const Grid& grid);

}  // namespace drpai_qat

#endif
