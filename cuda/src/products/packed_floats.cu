// Kernels of packed matrices of float32.

#include "base/launch.h"
#include "formats/packed/packed_view.h"
#include "products/decoded.h"
#include "products/kernels/pack_floats.cuh"
#include "products/packed_floats.h"

namespace gossamer::cuda {

void multiply_floats(const PackedArgs<float>& args, std::int64_t splits, Stream stream) {
  const int width = args.n == 1 ? 1 : args.n <= 8 ? 8 : kFloatColumns;
  const dim3 grid(grid_x(args.row_blocks * ceil_div(args.n, width)), static_cast<unsigned>(splits));
  launch(args.n == 1   ? pack_floats<1>
         : args.n <= 8 ? pack_floats<8>
                       : pack_floats<kFloatColumns>,
         grid, dim3(kPackedThreads), kFloatBytes, stream, args);
}

void multiply_wide_floats(const PackedTiles& a, const detail::Product& product, void* sums,
                          Stream stream) {
  multiply_decoded<float, float>(PackedDecoder{view_of<float>(a)}, kFloatCut, product, sums,
                                 stream);
}

}  // namespace gossamer::cuda
