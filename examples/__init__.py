"""A real corpus that every machine has, and the demonstration that `make demo` runs."""
