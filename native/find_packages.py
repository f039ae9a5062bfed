"""Prints, for CMake, the paths of the headers and libraries that the build needs.

The output is XLA's include folder, oneDNN's include folder and oneDNN's library, separated by
semicolons.
"""

import importlib.util
from importlib.metadata import distribution
from pathlib import Path


def find_file(package: str, suffix: str) -> Path:
    """Returns the path of the installed package's file whose path has this suffix."""
    for file in distribution(package).files or ():
        if f"/{file.as_posix()}".endswith(f"/{suffix}"):
            return Path(str(file.locate())).resolve()
    raise SystemExit(f"the package {package} has no file {suffix}: install it again")


spec = importlib.util.find_spec("jaxlib")
if spec is None or spec.origin is None:
    raise SystemExit("jaxlib, whose headers the build needs, is not installed")
xla = Path(spec.origin).parent / "include"
header = find_file("onednn-devel-cpu-gomp", "include/oneapi/dnnl/dnnl.hpp")
library = find_file("onednn-cpu-gomp", "libdnnl.so.3")
print(xla, header.parents[2], library, sep=";")
