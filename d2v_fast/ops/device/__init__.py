"""The operations on CUDA tensors: one file per operation launches the kernels, `routes` says which kernels can run."""
