"""Data sets in TFDS's folders: written from original archives, and read without TensorFlow."""
