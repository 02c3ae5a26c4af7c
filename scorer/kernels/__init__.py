"""Kernels: selection, encoder and heads in C++, where the package was built with a compiler for this processor.

Without them, or with `LIFELINE_KERNELS=torch`, PyTorch does the same work, and is what every kernel is tested against.
"""
