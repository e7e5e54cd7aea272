"""Models in torch that make and read memories.

`lumen.py` is the reader, `folding.py` spares it a codec's rotation; `checkpoints.py` is how all of
them are stored.
"""
