#ifndef TORCHHERD_SRC_DEVICE_H
#define TORCHHERD_SRC_DEVICE_H

#include <c10/core/Device.h>

namespace thd {

// Parses a device's name and checks that the device can be used. Loads LibTorch's CUDA library for a CUDA device.
// Throws Failure(THD_ERROR_DEVICE).
c10::Device usable_device(const char* name);

}  // namespace thd

#endif
