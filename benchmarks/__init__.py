"""What the project claims about its speed and size, measured: `python -m benchmarks`.

A benchmark runs its correctness gates first, times what it compares in interleaved rounds, and
returns tables whose figures carry their spread.
"""
