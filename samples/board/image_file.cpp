// Implements image_file.h with stb_image, behind a look at the file's own structure: sizes before anything is
// allocated, checksums, and what stb_image does not tell (EXIF, kinds of colour).
#include "image_file.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace {

// What stb_image may allocate at once: files can claim, or unpack to, any size.
thread_local size_t most_bytes = 0;

void* allocate(size_t bytes) { return bytes <= most_bytes ? std::malloc(bytes) : nullptr; }

void* reallocate(void* old, size_t bytes) { return bytes <= most_bytes ? std::realloc(old, bytes) : nullptr; }

}  // namespace

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_MAX_DIMENSIONS 65535
#define STBI_MALLOC(bytes) allocate(bytes)
#define STBI_REALLOC(old, bytes) reallocate(old, bytes)
#define STBI_FREE(old) std::free(old)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include "stb_image.h"
#pragma GCC diagnostic pop

namespace drpai_qat {
namespace {

constexpr uint64_t kMostFile = uint64_t{256} << 20;
constexpr size_t kPerPixel = 16, kMargin = 128;  // of a pixel's memory while it is decoded; pixels that blocks add a side

using Bytes = std::vector<uint8_t>;

[[noreturn]] void refuse(const std::string& why) { throw std::runtime_error(why); }

// What a file says of itself.
struct Head {
  int64_t height = 0, width = 0;
  int orientation = 1;
  bool deep = false;    // 16 bits a channel
  bool alpha = true;    // what the decoder gives as alpha is no colour that stands for transparent
  bool whole = false;
};

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  size_t size() const { return size_; }
  const uint8_t* at(size_t place, size_t bytes) const {
    if (place > size_ || bytes > size_ - place) refuse("damaged: it ends early");
    return data_ + place;
  }
  uint32_t number(size_t place, size_t bytes, bool little = false) const {
    const uint8_t* from = at(place, bytes);
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | from[little ? bytes - 1 - i : i];
    return value;
  }
  Reader part(size_t place, size_t bytes) const { return {at(place, bytes), bytes}; }
  bool begins(const char* text, size_t bytes) const { return size_ >= bytes && std::memcmp(data_, text, bytes) == 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

// The tag 274 of a TIFF head, which EXIF is; 1 where there is none.
int orientation_of(const Reader& exif) {
  bool little = exif.begins("II*\0", 4);
  if ((!little && !exif.begins("MM\0*", 4)) || exif.size() < 8) return 1;
  size_t at = exif.number(4, 4, little);
  if (at + 2 > exif.size()) return 1;
  size_t count = exif.number(at, 2, little);
  for (size_t i = 0; i < count && at + 14 + 12 * i <= exif.size(); ++i) {
    size_t entry = at + 2 + 12 * i;
    if (exif.number(entry, 2, little) != 274) continue;
    uint32_t value = exif.number(entry + 8, 2, little);
    return exif.number(entry + 2, 2, little) == 3 && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

uint32_t crc_of(const uint8_t* data, size_t size) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      made[i] = i;
      for (int bit = 0; bit < 8; ++bit) made[i] = (made[i] & 1) != 0 ? 0xEDB88320u ^ (made[i] >> 1) : made[i] >> 1;
    }
    return made;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < size; ++i) crc = table[(crc ^ data[i]) & 255] ^ (crc >> 8);
  return ~crc;
}

Head png_head(const Reader& file) {
  Head head;
  size_t at = 8;
  uint32_t color = 0;
  for (bool first = true; !head.whole; first = false) {
    size_t bytes = file.number(at, 4);
    Reader chunk = file.part(at + 4, bytes + 4), content = chunk.part(4, bytes);
    if (crc_of(file.at(at + 4, bytes + 4), bytes + 4) != file.number(at + 8 + bytes, 4)) refuse("damaged: a checksum differs");
    if (first != chunk.begins("IHDR", 4)) refuse("damaged: no PNG head");
    if (first) {
      head.width = content.number(0, 4), head.height = content.number(4, 4);
      head.deep = content.number(8, 1) == 16;
      color = content.number(9, 1);
    }
    if (chunk.begins("tRNS", 4)) head.alpha = color == 3;
    if (chunk.begins("eXIf", 4)) head.orientation = orientation_of(content);
    head.whole = chunk.begins("IEND", 4);
    at += 12 + bytes;
  }
  head.deep = head.deep && color == 0;
  return head;
}

Head jpeg_head(const Reader& file) {
  Head head;
  size_t at = 2;
  for (uint32_t marker = 0; marker != 0xDA;) {
    if (file.number(at, 1) != 0xFF) refuse("damaged: no JPEG marker where one should be");
    while ((marker = file.number(++at, 1)) == 0xFF) {
    }
    ++at;
    if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) continue;
    size_t bytes = file.number(at, 2);
    Reader part = file.part(at, std::max<size_t>(bytes, 2));
    if (marker == 0xE1 && bytes > 8 && part.part(2, bytes - 2).begins("Exif\0\0", 6))
      head.orientation = orientation_of(part.part(8, bytes - 8));
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
      if (part.number(2, 1) != 8) refuse("a JPEG of more than 8 bits: save it with 8");
      head.height = part.number(3, 2), head.width = part.number(5, 2);
      if (part.number(7, 1) == 4) refuse("a JPEG in CMYK: save it as RGB");
    }
    at += part.size();
  }
  for (; !head.whole && at + 2 <= file.size(); ++at) head.whole = file.number(at, 2) == 0xFFD9;
  if (!head.whole) refuse("damaged: it ends early");
  return head;
}

// From rows of 8 or 16 bits to an image, grey with alpha as RGBA.
template <typename Value>
Image from_rows(const Value* values, const Head& head, int channels) {
  bool alpha = channels % 2 == 0;
  int colors = channels - alpha, wanted = alpha && head.alpha ? 4 : colors;
  Image image{head.height, head.width, wanted, {}};
  image.pixels.reserve(static_cast<size_t>(head.height * head.width * wanted));
  for (int64_t at = 0; at < head.height * head.width; ++at, values += channels)
    for (int c = 0; c < wanted; ++c) {
      Value value = values[c == 3 ? channels - 1 : std::min(c, colors - 1)];
      image.pixels.push_back(static_cast<uint8_t>(sizeof(Value) == 2 ? (value + 128) / 257 : value));
    }
  return image;
}

// As it is to be seen: EXIF's orientation n says where the first row and the first column lie.
Image upright(Image image, int orientation) {
  if (orientation == 1) return image;
  bool transposed = orientation >= 5;
  bool last_row = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  bool last_column = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  Image turned{transposed ? image.width : image.height, transposed ? image.height : image.width, image.channels, {}};
  turned.pixels.reserve(image.pixels.size());
  for (int64_t y = 0; y < turned.height; ++y)
    for (int64_t x = 0; x < turned.width; ++x) {
      int64_t row = transposed ? x : y, column = transposed ? y : x;
      if (last_row) row = image.height - 1 - row;
      if (last_column) column = image.width - 1 - column;
      const uint8_t* pixel = image.pixels.data() + (row * image.width + column) * image.channels;
      turned.pixels.insert(turned.pixels.end(), pixel, pixel + image.channels);
    }
  return turned;
}

}  // namespace

Image read_image(const std::string& path) {
  File file(path, "give another file");
  if (file.left() > kMostFile) refuse("has more than 256 MB");
  std::string content = file.text(file.left());
  Reader reader(reinterpret_cast<const uint8_t*>(content.data()), content.size());
  bool png = reader.begins("\x89PNG\r\n\x1a\n", 8), jpeg = reader.begins("\xff\xd8\xff", 3);
  if (!png && !jpeg) refuse("no PNG or JPEG image (run_inference.py reads others)");
  Head head = png ? png_head(reader) : jpeg_head(reader);
  if (head.height < 1 || head.width < 1 || head.height > STBI_MAX_DIMENSIONS || head.width > STBI_MAX_DIMENSIONS ||
      head.height * head.width > kMostPixels)
    refuse("has " + std::to_string(head.width) + " x " + std::to_string(head.height) + " pixels");
  most_bytes = kPerPixel * (static_cast<size_t>(head.height) + kMargin) * (static_cast<size_t>(head.width) + kMargin);
  int width = 0, height = 0, channels = 0, size = static_cast<int>(content.size());
  const stbi_uc* data = reinterpret_cast<const stbi_uc*>(content.data());
  std::unique_ptr<void, void (*)(void*)> values(
      head.deep ? static_cast<void*>(stbi_load_16_from_memory(data, size, &width, &height, &channels, 0))
                : static_cast<void*>(stbi_load_from_memory(data, size, &width, &height, &channels, 0)),
      std::free);
  if (values == nullptr) {
    std::string why = stbi_failure_reason();  // which may quote the file
    bool plain = std::all_of(why.begin(), why.end(), [](unsigned char c) { return c >= ' ' && c <= '~'; });
    refuse("damaged: " + (plain ? why : "a part that is not known"));
  }
  if (width != head.width || height != head.height) refuse("damaged: two sizes");
  Image image = head.deep ? from_rows(static_cast<const uint16_t*>(values.get()), head, channels)
                          : from_rows(static_cast<const uint8_t*>(values.get()), head, channels);
  return upright(std::move(image), head.orientation);
}

std::vector<char> inflated(const std::vector<char>& packed, uint64_t bytes) {
  if (bytes > kMostFile * 4 || packed.size() > kMostFile * 4) refuse("unpacks to more than 1 GB");
  if (bytes / 1032 > packed.size() + 1) refuse("damaged: it can't unpack to that much");  // the most that deflate can
  std::vector<char> content(std::max<size_t>(bytes, 1));
  most_bytes = 1 << 20;
  int got = stbi_zlib_decode_noheader_buffer(content.data(), static_cast<int>(bytes), packed.data(),
                                             static_cast<int>(packed.size()));
  if (got < 0 || static_cast<uint64_t>(got) != bytes) refuse("damaged: it does not unpack");
  content.resize(bytes);
  return content;
}

}  // namespace drpai_qat
