// Converts pixels between uint8 HWC and float32 CHW, in one fused pass each way.
//
// LibTorch's general operators (permute, to, div; mul, clamp, byte, permute) write an image four times with strided
// access, and take longer than its JPEG decode and encode. These functions read and write once. They start no threads:
// waking a thread takes longer than converting a small image, and other cores are left to the codec.
#ifndef TORCHHERD_SRC_PIXELS_H
#define TORCHHERD_SRC_PIXELS_H

#include <array>
#include <cstdint>

namespace thd {

// Writes value/255, as torchvision's to_tensor does. pixels: count RGB pixels. planes: count floats for each channel.
void pixels_to_planes(const uint8_t* pixels, int64_t count, const std::array<float*, 3>& planes);

// Clamps values to 0..1 (NaN becomes 0), multiplies them by 255, adds `half` and truncates them: 0 to cut fractions off,
// 0.5 to round. torchvision's to_pil_image does the first without clamping, so its values wrap around; its save_image does
// the second.
void planes_to_pixels(const std::array<const float*, 3>& planes, int64_t count, float half, uint8_t* pixels);
// The same for one channel.
void plane_to_pixels(const float* plane, int64_t count, float half, uint8_t* pixels);

// Converts RGB pixels to gray as Pillow's convert("L") does (the weights of ITU-R BT.601 in 16 bits, rounded): as
// bytes, or as value/255.
void pixels_to_gray(const uint8_t* pixels, int64_t count, uint8_t* gray);
void pixels_to_gray_plane(const uint8_t* pixels, int64_t count, float* plane);

// Writes L/100, where L is the lightness of CIE Lab (1976) of sRGB (IEC 61966-2-1), D65, two degrees. The weights of Y are
// those of the primaries, as in scikit-image's rgb2lab.
void pixels_to_lightness_plane(const uint8_t* pixels, int64_t count, float* plane);

}  // namespace thd

#endif
