"""The block diagram of a model."""

import pytest

from flax_resnet.cli import main

LINES = {
    "resnext50_32x4d": ("1×1, 128  →  3×3, 128, 32 groups  →  1×1, 256", "7×7×2048",
                        "7×7, 64  (stride 2)", "max-pool 3×3  (stride 2)", "4.230 GMACs"),
    "resnet20": ("3 × basic blocks", "3×3, 16  →  3×3, 16", "the first halves the size",
                 "mean over the pixels  →  dense, 10 classes"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["resnet20", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)]
)
def test_the_diagram_names_layers_shapes_and_sizes(name, tmp_path, capsys):
    path = tmp_path / "net.svg"
    assert main(["summary", name, "--plot", str(path)]) == 0
    assert f"Look at {path}." in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    for line in LINES[name]:
        assert line in text


def test_another_suffix_is_refused(tmp_path, capsys):
    assert main(["summary", "resnet20", "--plot", str(tmp_path / "net.doc")]) == 1
    assert "ending in .svg or .png" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
