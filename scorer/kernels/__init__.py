"""Kernels: selection, encoder and heads in C++, for machines that have a compiler at installation.

Without them, or with `LIFELINE_KERNELS=torch`, PyTorch does the same work. Every kernel is tested against PyTorch.
"""
