"""Made tests/weights/files with torch 2.13.0: `python tests/weights/make_torch_files.py`.

The values are those of `make_arrays`, which needs NumPy only; the tests compare with it.
"""

from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files"
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")


def make_arrays():
    """Seeded arrays by name; `bfloat16` is made of float32 values that bfloat16 holds exactly."""
    rng = np.random.default_rng(1512)
    return {
        "conv": rng.standard_normal((2, 3, 3, 3)).astype(np.float32),
        "mean": rng.standard_normal(2).astype(np.float32),
        "matrix": rng.standard_normal((4, 5)).astype(np.float32),
        "bool": rng.random(7) < 0.5,
        "bfloat16": rng.integers(-100, 100, 5).astype(np.float32),
        **{name: rng.integers(0, 100, (2, 2)).astype(name) for name in DTYPES},
    }


def make_files():
    import torch

    arrays = {name: torch.from_numpy(array) for name, array in make_arrays().items()}
    model = torch.nn.DataParallel(
        torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, bias=False), torch.nn.BatchNorm2d(2))
    )
    state = model.state_dict()  # an OrderedDict with the attribute _metadata
    state["module.0.weight"].copy_(arrays["conv"])
    state["module.1.running_mean"].copy_(arrays["mean"])
    matrix = arrays["matrix"]
    views = {
        "whole": matrix,
        "transposed": matrix.t(),
        "sliced": matrix[1:, 1::2],
        "scalar": matrix[2, 3],
        "channels_last": arrays["conv"].contiguous(memory_format=torch.channels_last),
        "empty": matrix[:0],
        "no_storage": torch.zeros(0, 3),
    }
    checkpoint = {
        "torch": str(torch.__version__),
        "epoch": 12,
        "best_acc1": 76.13,
        "state_dict": state,
        "dtypes": {name: arrays[name] for name in (*DTYPES, "bool")}
        | {"bfloat16": arrays["bfloat16"].to(torch.bfloat16)},
        "views": views,
        "parameter": torch.nn.Parameter(arrays["mean"]),
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:0"),
        "dtype": torch.float16,
        "plain": [-3, 2**40, 0.5, True, None, "é", b"\xff\x00", bytearray(b"b"), (1, (2,)), {4, 5}],
    }
    save = torch.save
    save(checkpoint, FILES / "zip.pth")
    save(checkpoint, FILES / "legacy.pth", _use_new_zipfile_serialization=False)
    newer = {
        "uint16": torch.tensor([1, 2, 3], dtype=torch.uint16),
        "words": {"a": [frozenset({1}), b"x"]},
    }
    for protocol in (1, 4, 5):
        save(newer, FILES / f"zip{protocol}.pth", pickle_protocol=protocol)
        save(
            newer,
            FILES / f"legacy{protocol}.pth",
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=False,
        )
    save(torch.nn.Linear(1, 1), FILES / "whole_model.pth")
    torch.serialization.set_crc32_options(False)
    save({"mean": arrays["mean"]}, FILES / "no_crc.pth")


if __name__ == "__main__":
    make_files()
