/* Decodes PNG and JPEG files, which may be damaged or hostile: every failure is a std::runtime_error. */
#ifndef DRPAI_QAT_IMAGE_FILE_H
#define DRPAI_QAT_IMAGE_FILE_H

#include <cstdint>
#include <string>
#include <vector>

#include "image_input.h"

namespace drpai_qat {

/* Upright, 8 bits. 16 bits are rounded to 8 where the image is grey, and cut where it has colours, as Pillow does. */
Image read_image(const std::string& path);

/* What zlib packed without a head; `bytes` is what comes out. */
std::vector<char> inflated(const std::vector<char>& packed, uint64_t bytes);

}  // namespace drpai_qat

#endif
