#pragma once

// For programs that run one named case: device buffers, and a main that prints what was thrown.

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "base/device.cuh"

namespace check {

using gossamer::cuda::check;
using gossamer::cuda::launch;

/// n elements of device memory.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t n) : n_(n) { check(cudaMalloc(&data_, n * sizeof(T)), "cudaMalloc"); }
  explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) {
    check(cudaMemcpy(data_, host.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }

  T* data() const { return static_cast<T*>(data_); }
  std::vector<T> host() const {
    std::vector<T> host(n_);
    check(cudaMemcpy(host.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return host;
  }

 private:
  void* data_ = nullptr;
  std::size_t n_;
};

struct Case {
  const char* name;
  void (*run)();
};

/// Fails the case where `condition` does not hold.
inline void expect(bool condition, const std::string& what) {
  if (!condition) throw std::string(what);
}

template <std::size_t N>
int run_case(const Case (&cases)[N], int argc, char** argv) {
  for (const Case& each : cases) {
    if (argc < 2) {
      std::puts(each.name);
    } else if (std::strcmp(argv[1], each.name) == 0) {
      try {
        each.run();
        std::puts("ok");
        return 0;
      } catch (const std::string& what) {
        std::printf("expected %s\n", what.c_str());
      } catch (const std::exception& error) {
        std::puts(error.what());
      }
      return 1;
    }
  }
  return argc < 2 ? 0 : 2;
}

}  // namespace check
