#include "formats/csr.h"

#include "formats/compressed.h"

namespace gossamer::python {

void bind_csr(py::module_& module) { bind_compressed<Csr>(module, "Csr"); }

}  // namespace gossamer::python
