"""Speed on the CPU, side by side with PyTorch and plain Flax; see __main__.py."""
