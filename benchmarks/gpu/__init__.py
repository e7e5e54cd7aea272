"""What waits for a GPU: the codec's kernels against torch, in slices of at most 8 minutes.

Needs torch, Triton, NumPy and ml_dtypes alone, from whatever Python runs it; of memstore, only what
needs no more.
"""
