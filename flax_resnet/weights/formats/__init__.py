"""File formats of weights.

``files.py`` reads and writes ``.safetensors`` and ``.npz``; ``torch_files.py`` reads PyTorch's
files without PyTorch, over ``unpickle.py`` (a pickle reader that runs no code),
``pickled_names.py`` (its table of names) and ``torch_tensors.py``; ``checkpoint.py`` reads the
weights of orbax checkpoints.
"""
