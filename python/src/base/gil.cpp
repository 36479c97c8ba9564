#include "base/gil.h"

#include <unistd.h>

#include <optional>

#include "gossamer/runtime.h"

namespace gossamer::python {
namespace {

/// Is this Python's main thread, the only one that runs handlers of signals? Call it with the lock.
/// It runs Python code, so that a handler may run in it: what that raises comes out. It owns no
/// objects by variables with destructors: see sleep_if_python_ends().
bool is_main_thread() {
  PyObject* const threading = PyImport_ImportModule("threading");
  PyObject* const main =
      threading == nullptr ? nullptr : PyObject_CallMethod(threading, "main_thread", nullptr);
  PyObject* const ident = main == nullptr ? nullptr : PyObject_GetAttrString(main, "ident");
  const unsigned long number = ident == nullptr ? 0 : PyLong_AsUnsignedLong(ident);
  for (PyObject* object : {ident, main, threading}) Py_XDECREF(object);
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return number == PyThread_get_thread_ident();
}

/// What a long operation calls now and then, without the lock.
void look_for_signals(void*) {
  // Other threads ask once: waiting for the lock may take long, and would tell them nothing. The
  // child of a fork may have another main thread.
  static thread_local pid_t asked = 0;
  static thread_local bool main = false;
  const pid_t process = getpid();
  if (asked == process && !main) return;

  PyThreadState* thread = PyGILState_GetThisThreadState();
  if (thread == nullptr || py::detail::get_thread_state_unchecked() == thread) return;
  std::optional<py::error_already_set> raised;
  sleep_if_python_ends([&] {
    PyEval_RestoreThread(thread);
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (asked != process) {
        main = is_main_thread();
        asked = process;
      }
    } catch (const py::error_already_set& error) {
      // While Python ends, nobody can be asked and nothing interrupts.
      if (Py_IsInitialized()) raised.emplace(error);
    }
    PyEval_SaveThread();
  });
  if (raised) throw *raised;
}

}  // namespace

void learn_interrupts() {
  static thread_local const InterruptScope scope(&look_for_signals, nullptr);
  static_cast<void>(scope);
  knows_interrupts = true;
}

}  // namespace gossamer::python
