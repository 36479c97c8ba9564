#pragma once

// Neighbouring elements that are read and written at once.

#include "base/device.cuh"

namespace gossamer::cuda {

/// N elements, read and written in one access of up to 16 bytes, or in several if they have more.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T at[N];
};

template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
__device__ inline void store_pack(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

template <class T>
__device__ inline T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
__device__ inline T largest(T a, T b) {
  return a < b ? b : a;
}

}  // namespace gossamer::cuda
