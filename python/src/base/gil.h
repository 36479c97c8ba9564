#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <utility>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace gossamer::python {

namespace py = pybind11;

/// Calls body(), which waits for the interpreter lock at some point: it asks for it, or runs Python
/// code. When the interpreter has begun to end, CPython before 3.14 ends every other thread that
/// asks by pthread_exit(), which unwinds the stack through our frames: a destructor would abort the
/// process, or release Python objects without the lock. Such a thread sleeps here until the process
/// is gone instead, as it does in CPython from 3.14 on. The body itself owns no objects: they would
/// be released before the thread sleeps.
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

/// Has this thread been told how operations look for interrupts?
inline constinit thread_local bool knows_interrupts = false;

/// Tells the calling thread: from then on its long operations look for signals, if it is Python's
/// main thread, so that Ctrl-C ends them. What a handler raises comes out of the operation.
void learn_interrupts();

/// Releases the interpreter lock for as long as it lives. Python objects must not be touched
/// meanwhile. Use it instead of pybind11's, which aborts when Python ends before it does; hold no
/// lock at its end, where it waits.
class GilRelease {
 public:
  GilRelease() : thread_(PyEval_SaveThread()) {
    if (!knows_interrupts) [[unlikely]] {
      learn_interrupts();
    }
  }
  ~GilRelease() {
    sleep_if_python_ends([this] { PyEval_RestoreThread(thread_); });
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* thread_;
};

}  // namespace gossamer::python
