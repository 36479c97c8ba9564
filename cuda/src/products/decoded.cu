// The last step of products whose thread blocks share the depth of a tile.

#include "base/launch.h"
#include "products/decoded.h"

namespace gossamer::cuda {

void join_splits(const void* partial, std::int64_t splits, const detail::Product& product,
                 Stream stream) {
  const detail::DenseView& out = product.out;
  with_element_type(out.type, [&]<class T>(T) {
    const DecodedJoinArgs<T> join{.partial = static_cast<const Sum<T>*>(partial),
                                  .splits = static_cast<int>(splits),
                                  .m = product.m,
                                  .n = product.n,
                                  .out = static_cast<T*>(out.data),
                                  .out_row = out.transposed ? 1 : out.stride,
                                  .out_col = out.transposed ? out.stride : 1,
                                  .finish = Finish<T>(product)};
    launch(decoded_join<T>, dim3(grid_x(ceil_div(product.m * product.n, kDecodedJoinThreads))),
           dim3(kDecodedJoinThreads), 0, stream, join);
  });
}

}  // namespace gossamer::cuda
