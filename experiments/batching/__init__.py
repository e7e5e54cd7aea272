"""How far does batching change a memory? See docs/results/batching.md."""
