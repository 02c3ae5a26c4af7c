"""Scoring on a GPU: selection and encoder as Triton kernels, recorded as CUDA graphs.

It is chosen at a node's start where CUDA and Triton are there (`scorer.device`). Without a GPU the same kernels run in
Triton's interpreter, which is how they are tested.
"""
