#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <utility>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

#include "gossamer/runtime.h"

namespace gossamer::python {

namespace py = pybind11;

/// Calls body(), which waits for the interpreter lock at some point: it asks for it, or runs Python
/// code. When the interpreter has begun to end, CPython before 3.14 ends every other thread that
/// asks by pthread_exit(), which unwinds the stack through our frames: a destructor would abort the
/// process, or release Python objects without the lock. Such a thread sleeps here until the process
/// is gone instead, as it does in CPython from 3.14 on.
template <class F>
decltype(auto) sleep_if_python_ends(F&& body) {
#if defined(__GLIBCXX__)
  try {
    return std::forward<F>(body)();
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
#else
  return std::forward<F>(body)();
#endif
}

/// Releases the interpreter lock for as long as it lives. Python objects must not be touched
/// meanwhile. Use it instead of pybind11's, which aborts when Python ends before it does; hold no
/// lock at its end, where it waits. Meanwhile a long operation that runs on Python's main thread
/// looks for signals, so that Ctrl-C ends it: what a handler raises comes out of it.
class GilRelease {
 public:
  GilRelease() : thread_(PyEval_SaveThread()), interrupt_(&look_for_signals, this) {}
  ~GilRelease() {
    sleep_if_python_ends([this] { PyEval_RestoreThread(thread_); });
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  static void look_for_signals(void* self);

  PyThreadState* thread_;
  InterruptScope interrupt_;
};

}  // namespace gossamer::python
