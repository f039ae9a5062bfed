"""File formats of weights.

``files.py`` reads every kind, known by its first bytes, and writes ``.safetensors`` and ``.npz``;
``torch_files.py`` reads PyTorch's files and pickles without PyTorch, over ``unpickle.py`` (a pickle
reader that imports and calls nothing), ``pickled_names.py`` (its table of names),
``torch_tensors.py`` and ``numpy_objects.py``; ``write_torch.py`` writes them; ``checkpoint.py``
reads the weights of orbax checkpoints.
"""
