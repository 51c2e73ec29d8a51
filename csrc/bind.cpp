// The only file that sees Python. Tensors arrive as addresses and sizes; d2v_fast/ops checks them before.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/kernels.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of d2v_fast; use d2v_fast.ops and d2v_fast.masking instead.";
  m.def("isa", [] { return d2v::kernels().isa; }, "Name of the instruction set in use: baseline, avx2 or avx512.");
  m.attr("compiler") = D2V_COMPILER;
  d2v::kernels();  // a wrong D2V_FAST_ISA fails here, at import, not in the middle of a run
}
