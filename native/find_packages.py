"""Prints, for CMake, the include folders of XLA and oneDNN and oneDNN's library, ';' between."""

import importlib.util
from importlib.metadata import distribution
from pathlib import Path


def located(name: str, ending: str) -> Path:
    """Where the file of an installed distribution that ends so lies."""
    for file in distribution(name).files or ():
        if f"/{file.as_posix()}".endswith(f"/{ending}"):
            return Path(str(file.locate())).resolve()
    raise SystemExit(f"{name} holds no {ending}")


spec = importlib.util.find_spec("jaxlib")
if spec is None or spec.origin is None:
    raise SystemExit("jaxlib, whose headers are needed, is not installed")
xla = Path(spec.origin).parent / "include"
header = located("onednn-devel-cpu-gomp", "include/oneapi/dnnl/dnnl.hpp")
library = located("onednn-cpu-gomp", "libdnnl.so.3")
print(xla, header.parents[2], library, sep=";")
