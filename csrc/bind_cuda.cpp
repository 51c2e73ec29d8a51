// The only file of the CUDA kernels that sees Python. Tensors arrive as addresses and sizes, d2v_fast/ops/device checks them before;
// errors leave as RuntimeError. Built with -DD2V_CUDA_CPU for the simulator too.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/kernels.h"

namespace py = pybind11;

namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void raise_if(const char* failure, const char* what) {
  if (failure) throw std::runtime_error(std::string("CUDA kernel ") + what + ": " + failure);
}

// An int64 row of four numbers for each chunk.
py::array_t<int64_t> ema_table(uintptr_t tensors, int64_t count) {
  const int64_t chunks = d2v::cuda::ema_chunk_count(pointer<const d2v::EmaTensor>(tensors), count);
  py::array_t<int64_t> table({chunks, int64_t{4}});
  d2v::cuda::ema_fill_chunks(pointer<const d2v::EmaTensor>(tensors), count, reinterpret_cast<d2v::cuda::EmaChunk*>(table.mutable_data()));
  return table;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  using nogil = py::call_guard<py::gil_scoped_release>;
  m.doc() = "CUDA C++ kernels of d2v_fast; use d2v_fast.ops instead.";
  m.def("unusable", [](int device) -> std::optional<std::string> {
    const char* failure = d2v::cuda::use_device(device);
    if (!failure) failure = d2v::cuda::unusable();
    return failure ? std::optional<std::string>(failure) : std::nullopt;
  }, nogil());
  m.def("ema_table", &ema_table);
  m.def("ema", [](uintptr_t table, int64_t count, uintptr_t decay, int device, uintptr_t stream) {
    raise_if(d2v::cuda::use_device(device), "ema");
    raise_if(d2v::cuda::ema(pointer<const d2v::cuda::EmaChunk>(table), count, pointer<const double>(decay), pointer<void>(stream)), "ema");
  }, nogil());
  m.def("layer_targets_reads", [](int64_t layers, int64_t batch, int64_t frames, int64_t channels, int64_t count, int64_t dtype, int device) {
    d2v::LayerTargets x = {};
    x.layer_count = layers;
    x.batch = batch;
    x.frames = frames;
    x.channels = channels;
    x.count = count;
    x.dtype = dtype;
    x.layer_norm = d2v::NORM_INSTANCE;
    int reads = 0;
    raise_if(d2v::cuda::use_device(device), "layer_targets");
    raise_if(d2v::cuda::layer_targets_reads(x, reads), "layer_targets");
    return reads;
  }, nogil());
  m.def("layer_targets", [](const std::vector<uintptr_t>& layers, const std::vector<int64_t>& strides, uintptr_t rows, uintptr_t lengths,
                            uintptr_t out, int64_t batch, int64_t frames, int64_t channels, int64_t count, int64_t dtype, double eps,
                            int device, uintptr_t stream) {
    const d2v::LayerTargets x = {reinterpret_cast<const void* const*>(layers.data()), strides.data(), pointer<const int64_t>(rows),
                                 pointer<const int64_t>(lengths), pointer<void>(out), static_cast<int64_t>(layers.size()), batch, frames,
                                 channels, count, dtype, d2v::NORM_INSTANCE, d2v::NORM_NONE, 1, eps};
    raise_if(d2v::cuda::use_device(device), "layer_targets");
    raise_if(d2v::cuda::layer_targets(x, pointer<void>(stream)), "layer_targets");
  }, nogil());
}
