"""Every ResNet of real timm agrees with ours, or is refused by name, as docs/weights.md says.

``pytest -m slow -s tests/weights/test_timm_live.py`` shows the figures; it takes half an hour of a
core, and 12 GB for the largest.
"""

import pytest

from .timm_parity import PAGE, ROW, TOLERANCE, compare, reason, timm_names

SUPPORTED, REFUSED = (dict(ROW.findall(text)) for text in PAGE.read_text().split("## Refused"))


@pytest.fixture
def timm():
    """Imported by tests that run only; on one thread, as XLA's would wait for it."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    pytest.importorskip("tests.weights.torchvision_import")  # timm imports torchvision
    return pytest.importorskip("timm")


def test_refused_architectures_have_a_reason():
    assert {name: reason(name) for name in REFUSED} == REFUSED
    assert not any(map(reason, SUPPORTED))
    assert f"## Supported: {len(SUPPORTED)} " in PAGE.read_text()
    assert f"## Refused: {len(REFUSED)} " in PAGE.read_text()


@pytest.mark.slow
def test_the_page_has_every_name(timm):
    assert sorted({**SUPPORTED, **REFUSED}) == timm_names()


@pytest.mark.slow
@pytest.mark.parametrize("name", SUPPORTED)
def test_logits_are_timms(timm, name):
    found = compare(name)
    print(name, found)
    assert found.error <= TOLERANCE and found.is_bit_equal
