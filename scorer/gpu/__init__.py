"""Scoring on a GPU: selection and encoder as Triton kernels, recorded as CUDA graphs.

A node chooses it when it starts, if CUDA and Triton are available (`scorer.device`). Without a GPU, the tests run the
same kernels in Triton's interpreter.
"""
