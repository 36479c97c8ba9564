// The CUDA backend links and runs, with and without a GPU.
#include "gossamer/cuda.h"

#include <array>
#include <cstdint>

#include "check.h"
#include "gossamer/gossamer.h"

int main() {
  const gossamer::Device gpu{gossamer::DeviceType::cuda, 0};
  if (gossamer::cuda::device_count() > 0) {
    const auto memory = gossamer::cuda::allocate(gpu, 64);
    std::array<std::uint8_t, 64> bytes = {};
    gossamer::cuda::copy_to_host(gossamer::make_view(memory.get(), gossamer::DType::u8, {64}, gpu),
                                 bytes.data(), nullptr);
    gossamer::cuda::synchronize(gpu, nullptr);
    return 0;
  }
  bool refused = false;
  try {
    gossamer::cuda::synchronize(gpu, nullptr);
  } catch (const gossamer::CudaError&) {
    refused = true;
  }
  check(refused, "without a device a call throws CudaError");
}
