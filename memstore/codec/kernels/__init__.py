"""The inner loops of a product quantizer: `assign` finds nearest centroids, `gather` copies them.

`reference` says in plain NumPy what is right; `cpu` is the fast one. Each computes the same codes
and the same bits.
"""
