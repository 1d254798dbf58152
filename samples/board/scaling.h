/* Scales images as Pillow does, bit for bit. */
#ifndef DRPAI_QAT_SCALING_H
#define DRPAI_QAT_SCALING_H

#include <cstdint>
#include <string>

#include "image_input.h"

namespace drpai_qat {

/* A part of one side of a scaled image: `count` pixels from `first`, of `whole`. */
struct Part {
  int64_t whole, first, count;
};

/* Those parts of an image that is scaled to rows.whole x columns.whole; `interpolation` as Preprocessing names it. */
Image scaled(const Image& image, Part rows, Part columns, const std::string& interpolation);

}  // namespace drpai_qat

#endif
