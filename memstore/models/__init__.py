"""Models in torch that make and read memories.

`lumen.py` is the reader, `folding.py` spares it a codec's rotation, `vq.py` is the quantizer that
it is trained through; `melodi.py` reads streams longer than any window, `longvq.py` texts of
any length as a whole; `checkpoints.py` is how all of them are stored.
"""
