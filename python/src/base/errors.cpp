#include "base/errors.h"

#include <pybind11/pybind11.h>

#include "base/hooks.h"
#include "gossamer/error.h"

namespace gossamer::python {

void translate_exception(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const ValueError& error) {
    py::set_error(PyExc_ValueError, error.what());
  } catch (const TypeError& error) {
    py::set_error(PyExc_TypeError, error.what());
  } catch (const NotImplementedError& error) {
    py::set_error(PyExc_NotImplementedError, error.what());
  } catch (const CudaError& error) {
    py::set_error(hooks().cuda_error, error.what());
  }
}

}  // namespace gossamer::python
