#pragma once

#include <exception>

namespace gossamer::python {

/// Raises what stands for the library's errors in Python.
void translate_exception(std::exception_ptr pointer);

}  // namespace gossamer::python
