// The way of a picture's values between uint8 HWC and float32 CHW, one fused pass each way.
//
// LibTorch's general operators (permute, to, div; mul, clamp, byte, permute) write the picture four times over
// with strided access and cost more than its JPEG decode and encode; these read and write once. They start no
// threads: they take some ten microseconds for a picture of 228x228, less than it takes to wake a thread, and
// spread over cores they would take those from the codec.
#ifndef TORCHHERD_SRC_PIXELS_H
#define TORCHHERD_SRC_PIXELS_H

#include <array>
#include <cstdint>

namespace thd {

// pixels: count RGB pixels. planes: where count floats of each channel go; value/255 is written, the quotient that
// torchvision's to_tensor has.
void pixels_to_planes(const uint8_t* pixels, int64_t count, const std::array<float*, 3>& planes);

// The other way: clamped to 0..1 (NaN: 0), times 255, cut off to whole numbers, as torchvision's to_pil_image does, which
// doesn't clamp and so wraps round.
void planes_to_pixels(const std::array<const float*, 3>& planes, int64_t count, uint8_t* pixels);
// The same for one channel.
void plane_to_pixels(const float* plane, int64_t count, uint8_t* pixels);

// The grey of RGB pixels, as Pillow's convert("L") has it (ITU-R BT.601's weights in 16 bits, rounded), as bytes or as
// value/255.
void pixels_to_gray(const uint8_t* pixels, int64_t count, uint8_t* gray);
void pixels_to_gray_plane(const uint8_t* pixels, int64_t count, float* plane);

}  // namespace thd

#endif
