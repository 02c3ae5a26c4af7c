"""Kernels: selection and encoder in C++, where the package was built with a compiler and the processor has the means.

Without them, or with `LIFELINE_KERNELS=torch`, PyTorch does the same work, and is what every kernel is tested against.
"""
