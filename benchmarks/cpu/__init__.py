"""Benchmarks on the CPU against PyTorch and plain Flax; ``__main__.py`` describes the method."""
